"""Layers: classes with plain-typed arguments, on every Keras backend.

A layer that multiplies two activations (attention), or holds a matrix outside a dense layer, has a method
`macs(*inputs)`: the multiply-adds of its own call for one image, without those of its sublayers. Convolutions
and dense layers need none: `tfvt.profile` reads them off their kernels.
"""

from tfvt.layers.acmix import ACmix, ConvolutionPath
from tfvt.layers.attention import MultiHeadAttention, multi_head_attention
from tfvt.layers.convolution import GroupedDense
from tfvt.layers.embedding import TokenEmbedding
from tfvt.layers.funnel import FunnelPooling, FunnelUpsampling
from tfvt.layers.global_attention import GlobalAttention
from tfvt.layers.level_heads import LevelOutputs, LevelTower
from tfvt.layers.local_attention import LocalAttention
from tfvt.layers.normalization import BatchNormalization
from tfvt.layers.patches import PatchEmbedding, PatchMerging
from tfvt.layers.patchwise_attention import SANAttention
from tfvt.layers.pvt import MapPositions, PVTBlock
from tfvt.layers.pyramid import FPN, VTFPN, AdaptivePooling, JoinedConvolution, LevelProjector, Upsample
from tfvt.layers.regularization import DropPath, drop_path_rates
from tfvt.layers.swin import SwinBlock
from tfvt.layers.tokenizers import (
    ClusterTokenizer,
    FilterTokenizer,
    PoolTokenizer,
    RecurrentTokenizer,
    Tokenizer,
    kmeans,
)
from tfvt.layers.transformer import TransformerEncoderLayer, gelu
from tfvt.layers.visual_tokens import LinearNorm, Projector, TokenGraph, TokenTransformer
from tfvt.layers.window_attention import WindowAttention

__all__ = [
    "FPN",
    "VTFPN",
    "ACmix",
    "AdaptivePooling",
    "BatchNormalization",
    "ClusterTokenizer",
    "ConvolutionPath",
    "DropPath",
    "FilterTokenizer",
    "FunnelPooling",
    "FunnelUpsampling",
    "GlobalAttention",
    "GroupedDense",
    "JoinedConvolution",
    "LevelOutputs",
    "LevelProjector",
    "LevelTower",
    "LinearNorm",
    "LocalAttention",
    "MapPositions",
    "MultiHeadAttention",
    "PVTBlock",
    "PatchEmbedding",
    "PatchMerging",
    "PoolTokenizer",
    "Projector",
    "RecurrentTokenizer",
    "SANAttention",
    "SwinBlock",
    "TokenEmbedding",
    "TokenGraph",
    "TokenTransformer",
    "Tokenizer",
    "TransformerEncoderLayer",
    "Upsample",
    "WindowAttention",
    "drop_path_rates",
    "gelu",
    "kmeans",
    "multi_head_attention",
]
