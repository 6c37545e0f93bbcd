"""ACmix weights under the authors' names: one layer, and a ResNet that has it for its second convolution."""

import functools

from tfvt.checkpoints import resnet
from tfvt.checkpoints.formats import Format, Training
from tfvt.checkpoints.layouts import pointwise, scalar
from tfvt.checkpoints.renaming import Table, below

LAYER = (
    ("rate1", "alpha", scalar),
    ("rate2", "beta", scalar),
    ("conv1.*", "attention/query/*", pointwise),
    ("conv2.*", "attention/key/*", pointwise),
    ("conv3.*", "attention/value/*", pointwise),
    ("conv_p.*", "attention/position_*", pointwise),
    ("fc.weight", "convolution/mixing_kernel", pointwise),
    ("dep_conv.weight", "convolution/kernel"),
)
RESNET = (
    *resnet.TORCHVISION,
    *below("layer{stage}.{block}.conv2.", "stage{stage}_block{block}_2_acmix/", LAYER),
)

_format = functools.partial(Format, sources=("acmix",), ignored=r".*num_batches_tracked")
FORMATS = (
    _format(
        family="ACmix-ResNet",
        anchor="layer1.0.conv2.conv_p.weight",
        first_weight="stage1_block1_2_acmix/attention/query/kernel",
        table=Table(RESNET, first=resnet.TORCHVISION_FIRST),
        training=resnet.training,
    ),
    _format(
        family="ACmix layer",
        anchor="conv_p.weight",
        first_weight="attention/position_kernel",
        table=Table(LAYER),
        training=lambda source: Training(),
    ),
)
