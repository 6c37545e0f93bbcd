"""The decorator of every layer of tfvt."""

import functools
import inspect
import types
import typing

import keras

from tfvt.checks import check_arguments, plain

Layer = typing.TypeVar("Layer", bound=keras.layers.Layer)


def register_layer(cls: type[Layer]) -> type[Layer]:
    """Register a layer with Keras, check the arguments of its constructor, and record them as its configuration.

    A layer whose arguments are not plain values overrides `get_config`.

    Raises:
        ValueError: from the constructor, for a value outside what its type and `tfvt.checks.RANGES` allow.
    """
    construct = cls.__init__
    signature = inspect.signature(construct)
    hints, defaults = _arguments(cls)

    @functools.wraps(construct)
    def checked(self, *args, **kwargs):
        args, kwargs = plain(args), {name: plain(value) for name, value in kwargs.items()}
        given = dict(signature.bind(self, *args, **kwargs).arguments)
        given |= given.pop("kwargs", {})
        check_arguments(hints, given)
        construct(self, *args, **kwargs)
        # Read-only, because Keras wraps a dict that it finds in an attribute.
        self._arguments = types.MappingProxyType({name: given.get(name, defaults[name]) for name in defaults})

    def get_config(self):
        return super(cls, self).get_config() | dict(self._arguments)

    checked.__signature__ = signature  # Keras reads it without following what is wrapped
    cls.__init__ = checked
    if "get_config" not in vars(cls):
        cls.get_config = get_config
    return keras.saving.register_keras_serializable(package="tfvt")(cls)


def _arguments(cls):
    """(name -> type, name -> default) of the constructors of a layer and of its bases up to Keras' layer."""
    hints, defaults = {}, {}
    for base in reversed(cls.__mro__[: cls.__mro__.index(keras.layers.Layer)]):
        if "__init__" in vars(base):
            hints |= typing.get_type_hints(base.__init__)
            parameters = inspect.signature(base.__init__).parameters
            defaults |= {n: p.default for n, p in parameters.items() if n not in ("self", "kwargs")}
    return hints, defaults
