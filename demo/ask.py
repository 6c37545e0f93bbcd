"""Ask a SavedModel about image files, as a server would: with TensorFlow only, without this project's code.

python -m demo.ask SAVED_MODEL IMAGE...
"""

import sys
from pathlib import Path

import tensorflow as tf


def main(saved_model, *files):
    serve = tf.saved_model.load(saved_model).signatures["serving_default"]
    answer = serve(image=tf.constant([Path(file).read_bytes() for file in files]))
    names, probabilities = answer["name"].numpy(), answer["probabilities"].numpy()
    for file, name, row in zip(files, names, probabilities, strict=True):
        print(f"{file}: {name.decode()} ({row.max():.1%})")


if __name__ == "__main__":
    main(*sys.argv[1:])
