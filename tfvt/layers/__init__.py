"""Layers: classes with plain-typed arguments, on every Keras backend.

A layer that multiplies two activations (attention), or holds a matrix outside a dense layer, has a method
`macs(*inputs)`: the multiply-adds of its own call for one image, without those of its sublayers. Convolutions
and dense layers need none: `tfvt.profile` reads them off their kernels.
"""

from tfvt.layers.attention import multi_head_attention
from tfvt.layers.convolution import GroupedDense
from tfvt.layers.regularization import DropPath, drop_path_rates
from tfvt.layers.visual_tokens import (
    ClusterTokenizer,
    FilterTokenizer,
    LinearNorm,
    PoolTokenizer,
    Projector,
    RecurrentTokenizer,
    TokenGraph,
    TokenTransformer,
    kmeans,
)

__all__ = [
    "ClusterTokenizer",
    "DropPath",
    "FilterTokenizer",
    "GroupedDense",
    "LinearNorm",
    "PoolTokenizer",
    "Projector",
    "RecurrentTokenizer",
    "TokenGraph",
    "TokenTransformer",
    "drop_path_rates",
    "kmeans",
    "multi_head_attention",
]
