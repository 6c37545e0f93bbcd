"""Which part of each variable a device of a JAX mesh holds."""

import re
from collections.abc import Mapping, Sequence

import keras
from jax.sharding import Mesh, PartitionSpec

from tfvt.errors import UsageError


class Layout:
    """`distribution.layout`: a pattern of a weight's path -> the mesh axis that splits each of its dimensions.

    An optimizer's variables are split like the weight that they belong to, averaged weights like the weight itself.
    Whatever no pattern matches is whole on every device.

    Args:
        layout: the recipe's.
        mesh: the devices.
        variables: as `Update` has them: "model", "optimizer", "average".

    Raises:
        UsageError: a pattern that no weight matches, or axes that do not go with a weight; the message names both.
    """

    def __init__(
        self, layout: Mapping[str, Sequence[str | None]], mesh: Mesh, variables: Mapping[str, Sequence[keras.Variable]]
    ) -> None:
        self.mesh = mesh
        self.patterns = _compiled(layout)
        self.specs: dict[int, PartitionSpec] = {}
        used = set()
        for kind in ("model", "average"):
            for variable in variables.get(kind, ()):
                pattern = next((p for p in self.patterns if p.fullmatch(variable.path)), None)
                if pattern is not None:
                    used.add(pattern.pattern)
                    self.specs[id(variable)] = self._spec(variable, layout[pattern.pattern])
        for pattern in layout.keys() - used:
            raise UsageError(f"distribution.layout: no weight's path matches {pattern!r}")
        weights = {v.path.replace("/", "_"): v for v in variables.get("model", ()) if id(v) in self.specs}
        for slot in variables.get("optimizer", ()):
            name = slot.path.rpartition("/")[2]
            owners = [path for path in weights if name.startswith(path) and weights[path].shape == slot.shape]
            if owners:
                self.specs[id(slot)] = self.specs[id(weights[max(owners, key=len)])]

    def of(self, variable: keras.Variable) -> PartitionSpec:
        """The axes that split `variable`."""
        return self.specs.get(id(variable), PartitionSpec())

    def _spec(self, variable, axes):
        shape = tuple(variable.shape)
        where = f"distribution.layout: {list(axes)} of {variable.path} {shape}"
        if len(axes) != len(shape):
            raise UsageError(f"{where} must name an axis or null for each of its {len(shape)} dimensions")
        for size, axis in zip(shape, axes, strict=True):
            if axis is not None and axis not in self.mesh.shape:
                raise UsageError(f"{where}: the mesh has no axis {axis!r}; it has {', '.join(self.mesh.shape)}")
            if axis is not None and size % self.mesh.shape[axis]:
                raise UsageError(f"{where}: {size} does not divide by the {self.mesh.shape[axis]} devices of {axis!r}")
        return PartitionSpec(*axes)


def _compiled(layout):
    compiled = []
    for pattern in layout:
        try:
            compiled.append(re.compile(pattern))
        except re.error as error:
            raise UsageError(f"distribution.layout: {pattern!r} is no regular expression ({error})") from error
    return compiled
