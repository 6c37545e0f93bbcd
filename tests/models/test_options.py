"""Builders spell the fields of their parts out: signature, types, defaults and descriptions."""

import inspect
import re
from dataclasses import dataclass

import pytest

import tfvt
from tests.contracts import SMALLEST, SMALLEST_DENSE
from tfvt.models.options import Head, Options, spell_out
from tfvt.registry import get_variant


@dataclass(frozen=True)
class Sides(Options):
    """Of a box.

    Args:
        tall: in metres,
            at most 3.
        near, far: in metres.
    """

    near: float
    far: float = 2.0
    tall: float = 1.0


@spell_out
def box(*, sides: Sides, label: str = "box", name: str | None = None):
    """Describe a box.

    Args:
        tall: in feet.
        label: what it says.
        name: of the box.

    Returns:
        All of it.
    """
    return sides, label, name


def test_fields_are_arguments():
    assert box(near=1.0, label="a") == (Sides(1.0, 2.0, 1.0), "a", None)
    parameters = inspect.signature(box).parameters
    assert list(parameters) == ["near", "far", "tall", "label", "name"]
    assert {name: p.annotation for name, p in parameters.items()} == {
        "near": float, "far": float, "tall": float, "label": str, "name": str | None,
    }  # fmt: skip
    assert [p.default for p in parameters.values()] == [inspect.Parameter.empty, 2.0, 1.0, "box", None]


def test_descriptions_are_those_of_the_parts_unless_the_builder_has_its_own():
    *_, arguments, returns = re.split(r"\n\n|Args:\n", box.__doc__)
    assert arguments.splitlines() == [
        "    near, far: in metres.",
        "    tall: in feet.",
        "    label: what it says.",
        "    name: of the box.",
    ]
    assert returns.strip() == "Returns:\n    All of it."


def test_two_parts_cannot_have_one_field():
    @dataclass(frozen=True)
    class Other(Options):
        """Another.

        Args:
            num_classes: again.
        """

        num_classes: int = 3

    with pytest.raises(ValueError, match="duplicate parameter name: 'num_classes'"):

        @spell_out
        def builder(*, head: Head, other: Other):
            """Build.

            Args:
                head: of it.

            Returns:
                Nothing.
            """


@pytest.mark.parametrize("name", [*SMALLEST.values(), *SMALLEST_DENSE.values()])
def test_every_argument_of_a_builder_is_described(name):
    builder = get_variant(name).builder
    section = re.search(r"Args:\n((?:    .*\n)+)", builder.__doc__)[1]
    described = [n for names in re.findall(r"^    (\w[\w, ]*):", section, re.MULTILINE) for n in names.split(", ")]
    assert sorted(described) == sorted(inspect.signature(builder).parameters)


@pytest.mark.parametrize("argument", ["features", "input_shape", "depths"])
@pytest.mark.parametrize("value", [5, "P3", 2.5])
def test_what_is_no_sequence_is_named(argument, value):
    with pytest.raises(ValueError, match=rf"^{argument}={value!r}: expected a sequence"):
        tfvt.create_model("resnet18", **{argument: value})
