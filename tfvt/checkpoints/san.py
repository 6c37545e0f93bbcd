"""SAN weights (patchwise) under the authors' names, whole or one attention layer, in PyTorch's layouts."""

import functools

from tfvt.checkpoints.formats import Format, Training
from tfvt.checkpoints.layouts import pointwise
from tfvt.checkpoints.renaming import Table, below
from tfvt.models.options import IMAGENET_MEAN, IMAGENET_STD

ATTENTION = (
    ("conv1.*", "query/*", pointwise),
    ("conv2.*", "key/*", pointwise),
    ("conv3.*", "value/*", pointwise),
    ("conv_w.0.*", "features_norm/*"),
    ("conv_w.2.*", "hidden/*", pointwise),
    ("conv_w.3.*", "hidden_norm/*"),
    ("conv_w.5.*", "weights/*", pointwise),
)
_BLOCK = (
    ("bn1.*", "1_norm/*"),
    ("bn2.*", "2_norm/*"),
    ("conv.*", "conv/*"),
    *below("sam.", "mixer/", ATTENTION),
)
SAN = (
    ("conv_in.*", "stem_conv/*"),
    ("bn_in.*", "stem_norm/*"),
    ("conv{stage}.*", "stage{stage}_transition/*"),
    ("bn{stage}.*", "stage{stage}_norm/*"),
    *below("layer{stage}.{block}.", "stage{stage}_block{block}_", _BLOCK),
    ("fc.*", "head/*"),
)

_format = functools.partial(Format, sources=("san",), ignored=r".*num_batches_tracked")
FORMATS = (
    _format(
        family="SAN",
        anchor="layer0.0.sam.conv_w.5.weight",
        first_weight="stage1_block1_mixer/features_norm/gamma",
        table=Table(SAN),
        training=lambda source: Training(pixel_statistics=(IMAGENET_MEAN, IMAGENET_STD)),
    ),
    _format(
        family="SAN attention layer",
        anchor="conv_w.5.weight",
        first_weight="features_norm/gamma",
        table=Table(ATTENTION),
        training=lambda source: Training(),
    ),
)
