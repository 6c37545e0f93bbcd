"""The decorator of every layer of tfvt."""

import functools
import inspect

import keras

from tfvt.checks import check_numbers


def register_layer(cls):
    """Register a layer with Keras, so that saved models find it, and check the numbers that its constructor gets.

    Raises:
        ValueError: from the constructor, for a number outside its range, see `tfvt.checks.RANGES`.
    """
    construct = cls.__init__
    signature = inspect.signature(construct)

    @functools.wraps(construct)
    def checked(self, *args, **kwargs):
        arguments = dict(signature.bind(self, *args, **kwargs).arguments)
        check_numbers(arguments | arguments.pop("kwargs", {}))
        construct(self, *args, **kwargs)

    checked.__signature__ = signature  # Keras reads it without following what is wrapped
    cls.__init__ = checked
    return keras.saving.register_keras_serializable(package="tfvt")(cls)
