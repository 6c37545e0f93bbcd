"""ResNet weights under the names of torchvision and timm, and of transformers, all in PyTorch's layouts."""

from tfvt.checkpoints.files import Checkpoint
from tfvt.checkpoints.formats import Format, Training
from tfvt.checkpoints.renaming import Table, below
from tfvt.models.options import IMAGENET_MEAN, IMAGENET_STD

_TORCHVISION_BLOCK = (
    ("conv{conv}.weight", "{conv}_conv/kernel"),
    ("bn{conv}.*", "{conv}_norm/*"),
    ("downsample.0.weight", "shortcut_conv/kernel"),
    ("downsample.1.*", "shortcut_norm/*"),
)
TORCHVISION = (
    ("conv1.weight", "stem_conv/kernel"),
    ("bn1.*", "stem_norm/*"),
    *below("layer{stage}.{block}.", "stage{stage}_block{block}_", _TORCHVISION_BLOCK),
    ("fc.*", "head/*"),
)
TORCHVISION_FIRST = {"stage": 1, "conv": 1}

_HUGGINGFACE_BLOCK = (
    ("layer.{conv}.convolution.weight", "{conv}_conv/kernel"),
    ("layer.{conv}.normalization.*", "{conv}_norm/*"),
    ("shortcut.convolution.weight", "shortcut_conv/kernel"),
    ("shortcut.normalization.*", "shortcut_norm/*"),
)
HUGGINGFACE = (
    ("embedder.embedder.convolution.weight", "stem_conv/kernel"),
    ("embedder.embedder.normalization.*", "stem_norm/*"),
    *below("encoder.stages.{stage}.layers.{block}.", "stage{stage}_block{block}_", _HUGGINGFACE_BLOCK),
    ("classifier.1.*", "head/*"),
)


def training(source: Checkpoint) -> Training:
    """All normalise pixels by ImageNet's statistics."""
    return Training(pixel_statistics=(IMAGENET_MEAN, IMAGENET_STD))


FORMATS = tuple(
    Format(
        sources=sources,
        family="ResNet",
        anchor=table.rows[0][0],
        first_weight="stem_conv/kernel",
        table=table,
        training=training,
        ignored=r".*num_batches_tracked",  # counters of PyTorch's batch norms
    )
    for sources, table in (
        (("torchvision", "timm"), Table(TORCHVISION, first=TORCHVISION_FIRST)),
        (("huggingface",), Table(HUGGINGFACE, prefix="(resnet.)?")),
    )
)
