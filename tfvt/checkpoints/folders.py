"""Folders of the Hugging Face hub on the disk: config.json beside safetensors, whole or in parts; the hub's cache."""

import re
from typing import Any

from tfvt.checkpoints.files import Checkpoint, read_json, read_neighbour
from tfvt.stores import AnyPath, as_path

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
NAMES = (WEIGHTS, f"{WEIGHTS}.index.json")
VERSION = "tfvt_version"  # the key by which a config is of `tfvt.save_pretrained`
PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".pkl", ".pickle")
_TIMM = (r"(?:vit|deit)_(tiny|small|base|large)_patch(\d+)_(\d+)(?:_in21k)?", r"resnet(?:18|34|50|101)")


def checkpoint_file(source: Checkpoint) -> Checkpoint:
    """The file of the weights if `source` is a folder; otherwise `source` itself.

    Raises:
        IsADirectoryError: the folder has no weights.
        ValueError: it has them as pickles alone, or is a cache with no or several revisions.
    """
    if isinstance(source, dict):
        return source
    folder = as_path(source)
    if not folder.is_dir() or as_path(f"{folder}.index").is_file():  # the prefix of a TensorFlow checkpoint
        return source
    folder = snapshot(folder)
    for name in NAMES:
        if (folder / name).is_file():
            return folder / name
        if (folder / name).is_symlink():
            raise ValueError(f"{folder / name} is a link to a file that is missing: download it again")
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        raise ValueError(
            f"{folder / pickles[0]}: tfvt reads safetensors alone from a folder, since pickles could run code; "
            "pass the file itself, which PyTorch reads with weights_only=True"
        )
    raise IsADirectoryError(f"{folder} is a folder without {' or '.join(NAMES)}: pass the checkpoint in it")


def snapshot(folder: AnyPath) -> AnyPath:
    """The revision in a folder of the hub's cache, `models--ORG--NAME`: refs/main, or the only one; others as they are.

    Raises:
        ValueError: none of its revisions is the one to take.
    """
    if not (folder / "snapshots").is_dir():
        return folder
    main = folder / "refs" / "main"
    if main.is_file():
        with main.open("rb") as file:
            revision = file.read(200).decode("utf-8", "replace").strip()
        if not re.fullmatch(r"\w[\w.-]*", revision) or not (folder / "snapshots" / revision).is_dir():
            raise ValueError(f"{main} names the revision {revision!r}, which is not in {folder / 'snapshots'}")
        return folder / "snapshots" / revision
    revisions = sorted(path.name for path in (folder / "snapshots").iterdir() if path.is_dir())
    if len(revisions) != 1:
        found = f"several revisions ({', '.join(revisions[:3])})" if revisions else "no revision"
        raise ValueError(f"{folder / 'snapshots'} holds {found}: pass the folder of one")
    return folder / "snapshots" / revisions[0]


def folder_source(file: AnyPath) -> tuple[str, str]:
    """(`source` of `load_checkpoint`, the key that says so) of a folder's file; ("auto", "") if its config does not."""
    config = read_neighbour(file, CONFIG)
    if VERSION in config:
        return "tfvt", VERSION
    if "model_type" in config:
        return "huggingface", f"model_type={config['model_type']!r}"
    if timm_match(config.get("architecture")):
        return "timm", f"architecture={config['architecture']!r}"
    return "auto", ""


def timm_match(architecture: Any) -> re.Match | None:
    """The match of an architecture of timm that our readers know; None of another."""
    if not isinstance(architecture, str):
        return None
    name = architecture.partition(".")[0]  # behind the dot is what it was trained on
    return next(filter(None, (re.fullmatch(pattern, name) for pattern in _TIMM)), None)


def read_config(folder: AnyPath) -> dict[str, Any]:
    """config.json of a folder.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON object; the message names it.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: expected a folder with {CONFIG} and {WEIGHTS}")
    try:
        return read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error
