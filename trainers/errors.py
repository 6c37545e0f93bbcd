"""How the text of a `UsageError` is made."""

import argparse
import difflib
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from tfvt.errors import UsageError, one_line
from tfvt.files import disk_is_full

LONGEST = 600  # characters of a parser's message

# Other programs' names and common abbreviations for keys. The values are last parts of keys.
SYNONYMS = {
    "augment": "auto_augment",
    "batch": "batch_size",
    "bs": "batch_size",
    "clip_norm": "clip_global_norm",
    "clipnorm": "clip_global_norm",
    "dataset": "records",
    "decay": "weight_decay",
    "ema": "ema_decay",
    "epoch": "epochs",
    "eps": "epsilon",
    "grad_clip": "clip_global_norm",
    "img_size": "image_size",
    "lr": "learning_rate",
    "max_epochs": "epochs",
    "max_grad_norm": "clip_global_norm",
    "mixed_precision": "precision",
    "num_epochs": "epochs",
    "smoothing": "label_smoothing",
    "warmup": "warmup_epochs",
    "warmup_lr": "warmup_learning_rate",
    "wd": "weight_decay",
    "xla": "jit_compile",
}


class LineParser(argparse.ArgumentParser):
    """A parser of plain arguments, such as paths in any encoding, that raises `UsageError` as well."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def cannot_write(what: object, error: Exception, then: str) -> UsageError:
    """An error for a file of a run that cannot be written.

    Args:
        what: the file.
        error: of the attempt.
        then: what the user does once it can be written.
    """
    return UsageError(f"cannot write {what} ({_reason(error)}): {_cure(error)}, then {then}")


def cannot_read(what: object, error: Exception, then: str) -> UsageError:
    """The same for one that cannot be read. What is in a store is read through this machine's disk."""
    return UsageError(f"cannot read {what} ({_reason(error)}): {_cure(error)}, then {then}")


def _reason(error):
    return getattr(error, "strerror", None) or one_line(error)


def _cure(error):
    return "make room" if disk_is_full(error) else "mend that"


def unknown_key(key: str, known: Iterable[str]) -> UsageError:
    """An error that names `key` and those of the `known` keys that look like it."""
    known = sorted(known)
    # Match the last part first: a shared beginning such as `model.options.` would make all of them look alike.
    last_parts = [known_key.rpartition(".")[2] for known_key in known]
    wanted = key.rpartition(".")[2]
    synonym = SYNONYMS.get(wanted)
    near_parts = [synonym] if synonym in last_parts else difflib.get_close_matches(wanted, last_parts, n=3)
    near = difflib.get_close_matches(
        key, [known_key for known_key, part in zip(known, last_parts, strict=True) if part in near_parts], n=2, cutoff=0
    )
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    return UsageError(f"there is no key {key}; {hint}")


def parser_error(error: Exception) -> UsageError:
    """The error of jsonargparse, on one line and in words that need no knowledge of Python."""
    text = one_line(error).replace("typing.Literal", "one of ").replace("Expected a one", "Expected one")
    text = re.sub(r"<class '(\w+)'>", r"\1", text)
    half = LONGEST // 2  # it repeats the value
    return UsageError(text if len(text) <= LONGEST else f"{text[:half]} ... {text[-half:]}")
