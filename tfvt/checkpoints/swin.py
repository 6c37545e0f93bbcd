"""Swin weights under the authors' names, whole or one block, with window attention or ACmix, and under transformers'.

PyTorch's layouts. transformers has two spellings: that of files (`save_pretrained`) and, from version 5, that of the
live state dict.
"""

import functools

from tfvt.checkpoints.files import Checkpoint, read_neighbour
from tfvt.checkpoints.formats import Format, Training
from tfvt.checkpoints.layouts import as_is, pointwise, scalar
from tfvt.checkpoints.renaming import Table, below
from tfvt.models.options import IMAGENET_MEAN, IMAGENET_STD

ATTENTION = (
    ("qkv.*", "qkv/*"),
    ("relative_position_bias_table", "bias_table", as_is),
    ("proj.*", "out/*"),
)
ACMIX = (
    *below("", "attention/", ATTENTION),
    ("rate1", "alpha", scalar),
    ("rate2", "beta", scalar),
    ("fc.*", "convolution/mixing_*", pointwise),
    ("dep_conv.weight", "convolution/kernel"),
)
_MERGING = (("norm.*", "norm/*"), ("reduction.*", "reduction/*"))


def block(mixer: tuple[tuple, ...]) -> tuple[tuple, ...]:
    """Rows of a block under the authors' names; `mixer` has those of its attention."""
    return (
        ("norm1.*", "mixer_norm/*"),
        *below("attn.", "mixer/", mixer),
        ("norm2.*", "mlp_norm/*"),
        ("mlp.fc1.*", "mlp_in/*"),
        ("mlp.fc2.*", "mlp_out/*"),
    )


def model(mixer: tuple[tuple, ...]) -> tuple[tuple, ...]:
    """Rows of a whole Swin under the authors' names."""
    return (
        ("patch_embed.proj.*", "patch_embedding/projection/*"),
        ("patch_embed.norm.*", "patch_embedding/norm/*"),
        *below("layers.{stage}.blocks.{block}.", "stage{stage}_block{block}/", block(mixer)),
        *below("layers.{stage_before}.downsample.", "stage{stage_before}_merging/", _MERGING),
        ("norm.*", "norm/*"),
        ("head.*", "head/*"),
    )


_HUGGINGFACE_BLOCK = (
    ("layernorm_before.*", "mixer_norm/*"),
    (
        ("attention.(self.query|q_proj).*", "attention.(self.key|k_proj).*", "attention.(self.value|v_proj).*"),
        "mixer/qkv/*",
    ),
    ("attention.(self|relative_position_bias).relative_position_bias_table", "mixer/bias_table", as_is),
    ("attention.(output.dense|o_proj).*", "mixer/out/*"),
    ("layernorm_after.*", "mlp_norm/*"),
    ("(intermediate.dense|mlp.fc1).*", "mlp_in/*"),
    ("(output.dense|mlp.fc2).*", "mlp_out/*"),
)
HUGGINGFACE = (
    ("embeddings.patch_embeddings.projection.*", "patch_embedding/projection/*"),
    ("embeddings.norm.*", "patch_embedding/norm/*"),
    *below("encoder.layers.{stage}.blocks.{block}.", "stage{stage}_block{block}/", _HUGGINGFACE_BLOCK),
    *below("encoder.layers.{stage_before}.downsample.", "stage{stage_before}_merging/", _MERGING),
    ("layernorm.*", "norm/*"),
    ("classifier.*", "head/*"),
)
FIRST = {"stage_before": -1}  # the merging that ends a source's first stage begins our second


def training(source: Checkpoint) -> Training:
    """ImageNet's statistics; the epsilon of transformers' `config.json` if that file exists."""
    epsilon = read_neighbour(source, "config.json").get("layer_norm_eps")
    return Training("erf", epsilon, (IMAGENET_MEAN, IMAGENET_STD))


_format = functools.partial(
    Format,
    ignored=r".*(relative_position_index|attn_mask)",  # buffers that follow from the sizes
    resample="bicubic",
)
_model = functools.partial(_format, family="Swin", first_weight="stage1_block1/mixer_norm/gamma", training=training)
_block = functools.partial(
    _format,
    sources=("swin",),
    family="Swin block",
    first_weight="mixer_norm/gamma",
    training=lambda source: Training(),
)
FORMATS = (
    _model(
        sources=("swin",),
        anchor="layers.{stage}.blocks.{block}.attn.rate1",
        table=Table(model(ACMIX), first=FIRST),
    ),
    _model(
        sources=("swin",),
        anchor="layers.0.blocks.0.attn.relative_position_bias_table",
        table=Table(model(ATTENTION), first=FIRST),
    ),
    _block(anchor="attn.rate1", table=Table(block(ACMIX))),
    _block(anchor="attn.relative_position_bias_table", table=Table(block(ATTENTION))),
    _model(
        sources=("huggingface",),
        anchor=r"encoder.layers.0.blocks.0.attention.\w+.relative_position_bias_table",
        table=Table(HUGGINGFACE, first=FIRST, prefix="(swin.)?"),
    ),
)
