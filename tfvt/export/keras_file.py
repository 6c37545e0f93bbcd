"""A model as Keras' own file, which loads after `import tfvt`."""

import keras

from tfvt.export.conversion import check_target, new_file
from tfvt.stores import AnyPath


def export_keras(model: keras.Model, path: AnyPath | str) -> AnyPath:
    """Write `model` as a `.keras` file, also in a store; it appears complete or not at all.

    Returns:
        The path.

    Raises:
        ValueError: the file exists.
        OSError: the file cannot be written.
    """
    path = check_target(path)
    with new_file(path, ".keras") as temporary:
        model.save(temporary)
    return path
