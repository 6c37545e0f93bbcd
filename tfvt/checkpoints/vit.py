"""What the sources of ViT weights have in common: tables of names, and the pieces that make our weights."""

import re

import numpy as np

from tfvt.checkpoints.formats import Tensor

FIRST_WEIGHT = "patch_embedding/kernel"
PATCH_POSITIONS = "embedding/patch_positions"

_NORM = {"weight": "gamma", "scale": "gamma", "gamma": "gamma", "bias": "beta", "beta": "beta"}
_DENSE = {"weight": "kernel", "kernel": "kernel", "bias": "bias"}


def rename(arrays, table, layout):
    """Pieces of our weights: {path: Tensor}.

    Args:
        arrays: by the source's names.
        table: (pattern of a name, our layer). The groups of a pattern: `layer` counts from 0, ours from 1;
            `tensor` is the name of a tensor of that layer; others stand in our layer's name as they are.
        layout: called on each array, gives it in Keras' layout.
    """
    pieces = {}
    for name, array in arrays.items():
        for pattern, layer in table:
            match = re.fullmatch(pattern, name)
            if match:
                groups = match.groupdict()
                if "layer" in groups:
                    groups["layer"] = int(groups["layer"]) + 1
                path = layer.format(**groups)
                if "tensor" in groups:
                    path += "/" + (_NORM if path.endswith("norm") else _DENSE)[groups["tensor"]]
                pieces[path] = Tensor((name,), layout(array))
    return pieces


def assemble(pieces):
    """Our weights from the pieces of `rename`.

    Queries, keys and values become one matrix, heads are laid side by side, and the table of positions
    (1, 1 + N, C) is parted into that of the class token and those of the patches (N, C), whose grid the loader
    knows.
    """
    weights = {}
    for path, tensor in pieces.items():
        parts = re.fullmatch(r"(.*/attention)/(query|key|value|qkv)/(kernel|bias)", path)
        if path == "positions":
            table = tensor.array.reshape(-1, tensor.array.shape[-1])
            weights["embedding/class_position"] = Tensor(tensor.names, table[:1].reshape(1, 1, -1))
            weights[PATCH_POSITIONS] = Tensor(tensor.names, table[1:])
        elif path.endswith("attention/out/kernel"):
            weights[path] = Tensor(tensor.names, tensor.array.reshape(-1, tensor.array.shape[-1]))
        elif parts is None:
            weights[path] = tensor
        elif parts[2] == "qkv":
            weights[f"{parts[1]}/qkv_{parts[3]}"] = tensor
        elif parts[2] == "query":
            weights |= _merge(pieces, parts[1], parts[3])
    return weights


def _merge(pieces, attention, kind):
    """The matrix or bias of queries, keys and values, if all three are there."""
    paths = [f"{attention}/{part}/{kind}" for part in ("query", "key", "value")]
    if not all(path in pieces for path in paths):
        return {}
    tensors = [pieces[path] for path in paths]
    channels = tensors[0].array.shape[0] if kind == "kernel" else None
    flat = [t.array.reshape(channels, -1) if channels else t.array.reshape(-1) for t in tensors]
    return {f"{attention}/qkv_{kind}": Tensor(sum((t.names for t in tensors), ()), np.concatenate(flat, axis=-1))}
