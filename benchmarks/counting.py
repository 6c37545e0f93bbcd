"""Counts of built models, and the papers' figures that they are compared with."""

import csv
import functools
import gc
from dataclasses import dataclass
from pathlib import Path

import tfvt

ROOT = Path(__file__).parent.parent
PAPER_RESULTS = ROOT / "docs" / "paper_results.csv"


@dataclass(frozen=True)
class Count:
    """Parameters with and without norms, and MACs of one model."""

    params_with_norms: int
    params: int
    macs: int


@functools.cache
def profile_of(name, **options):
    """The profile of a model; each is built once, and gone before the next (it is a cycle of objects)."""
    gc.collect()
    return tfvt.profile(tfvt.create_model(name, **options))


def count(name, **options):
    """The count of a model."""
    profile = profile_of(name, **options)
    return Count(profile.params, profile.params_without_norms, profile.macs)


def paper_rows(paper):
    """The rows of paper_results.csv for one paper."""
    with open(PAPER_RESULTS, newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["paper"] == paper]


def acmix_name(system):
    """Registered name of a system of the ACmix paper: "Swin-ACmix-T" is acmix_swin_tiny."""
    family, *module, size = system.lower().split("-")
    name = family + {"t": "_tiny", "s": "_small", "l": "_large"}.get(size, size)
    return "_".join([*module, name])
