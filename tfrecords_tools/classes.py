"""What records say about their classes: a label must mean the same in every record of every split."""

from typing import NamedTuple

from tfvt.data.records import Manifest


class ClassClaim(NamedTuple):
    """The class that a record states: the stored label, and its names, empty where the record has none."""

    label: int
    synset: str
    text: str


def contradictions(claims: dict[ClassClaim, str]) -> list[str]:
    """Labels with two names and synsets with two labels, in words.

    Two labels may have one text: ImageNet has two classes "crane", a bird and a machine.

    Args:
        claims: everything that records claim, each with one record ("record 3 of train-00000-of-00001") that does.
    """
    return [
        *_unequal(claims, key="label", value="synset"),
        *_unequal(claims, key="label", value="text"),
        *_unequal(claims, key="synset", value="label"),
    ]


def other_names(claims: dict[ClassClaim, str], manifest: Manifest) -> list[str]:
    """Labels whose names in a record belong to another class of the manifest, in words."""
    problems = []
    for claim, place in claims.items():
        names, index = {claim.synset, claim.text}, claim.label - manifest.label_offset
        if 0 <= index < len(manifest.class_names) and manifest.class_names[index] not in names:
            for other in sorted(names.intersection(manifest.class_names)):
                problems.append(f"class {manifest.class_names[index]!r} of the manifest is {other!r} in {place}")
    return problems


def _unequal(claims, key, value):
    first = {}
    for claim, place in claims.items():
        one, other = getattr(claim, key), getattr(claim, value)
        if one == "" or other == "":
            continue
        known, known_place = first.setdefault(one, (other, place))
        if other != known:
            yield f"{key} {one} has {value} {known!r} in {known_place}, and {other!r} in {place}"
