"""Mask R-CNN and Cascade Mask R-CNN over any backbone with a pyramid of maps.

Sources: Mask R-CNN (He et al., ICCV 2017), https://arxiv.org/abs/1703.06870, and Cascade R-CNN (Cai and Vasconcelos,
CVPR 2018), https://arxiv.org/abs/1712.00726, as mmdetection has them; over Swin (Liu et al. 2021) and ACmix (Pan et
al., CVPR 2022), Table 5. Options have what torchvision's Mask R-CNN does otherwise. Counts against the papers:
docs/fidelity.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import keras

from tfvt.layers import FPN, BatchNormalization
from tfvt.layers.anchors import Anchors
from tfvt.layers.dense import TokenDense
from tfvt.layers.level_heads import LevelOutputs, LevelTower
from tfvt.layers.proposals import ProposalLosses, Proposals, TrueSizes
from tfvt.layers.pyramid import Maps, level_number
from tfvt.layers.roi_align import RoIAlign
from tfvt.layers.roi_heads import BoxLosses, MaskLosses, RoIConv2D, RoIConv2DTranspose
from tfvt.layers.rois import STD, MaskRegions, ProposalSamples, RefinedProposals, RoIDetections
from tfvt.models.dense import Backbone, BackbonePixels, neck_maps
from tfvt.models.detection_model import TRUTH, DetectionModel
from tfvt.models.options import BatchNorm, Head, Options, spell_out
from tfvt.registry import register

_BACKBONES = ("swin_tiny", "acmix_swin_tiny")
_CASCADE = {
    "stage_overlaps": (0.5, 0.6, 0.7),
    "stage_weights": (1.0, 0.5, 0.25),
    "box_head": "convolution",
    "box_loss": "giou",
    "rpn_beta": 1 / 9,
    "training_proposals": 2000,
}
VARIANTS = {
    **{f"mask_rcnn_{backbone}": {"backbone": backbone, "level_norm": True} for backbone in _BACKBONES},
    **{
        f"cascade_mask_rcnn_{backbone}": {"backbone": backbone, "level_norm": True, **_CASCADE}
        for backbone in _BACKBONES
    },
}
RATIOS = (0.5, 1.0, 2.0)
BOX_WEIGHTS = {"l1": 1.0, "giou": 10.0}
BOX_DIM = 1024  # of the dense layers of a box head
STAGE_OUTPUTS = ("proposals", "states", "class_logits", "box_deltas", "class_loss", "box_loss", "count")


@dataclass(frozen=True)
class MaskRCNNOptions(Options):
    """Neck, proposals, heads and losses.

    Args:
        level_norm: a layer norm on each map of the backbone.
        pyramid_channels: of the neck's maps and of the convolutions of the heads.
        stage_overlaps: least overlap (IoU) of a positive with its box in each stage: several make a cascade, where each
            stage reads the boxes of the one before.
        stage_weights: of the losses of each stage.
        box_head: "dense", two dense layers, or "convolution", four 3x3 with batch norm and one dense layer.
        box_loss: of a stage: "l1", of the deltas, or "giou", of the boxes, ten times as heavy.
        box_beta: the parabola of the smooth L1 of a stage, 0 for L1.
        rpn_beta: that of the proposals.
        proposals: boxes of an image that the first stage reads.
        training_proposals: those that it draws from in training.
        sampled_anchors: anchors of an image that the proposals learn from.
        sampled_proposals: proposals of an image that each stage learns from, a quarter of them positive.
        samples: points in each cell of RoIAlign along a side.
        aligned: RoIAlign takes pixels at half-pixel centres.
        background_first: the background is class 0, as in torchvision, where boxes and masks have that class too.
        reassign_best: see `tfvt.layers.boxes.assign_boxes`, and, of the proposals of a single stage,
            `tfvt.layers.rois.ProposalSamples`.
        least_best: likewise, of the proposals' anchors.
        binary_masks: the truth of a mask is cut at one half.
        whole_anchors: anchors in whole pixels, see `tfvt.layers.Anchors`.
    """

    level_norm: bool = False
    pyramid_channels: int = 256
    stage_overlaps: tuple[float, ...] = (0.5,)
    stage_weights: tuple[float, ...] = (1.0,)
    box_head: Literal["dense", "convolution"] = "dense"
    box_loss: Literal["l1", "giou"] = "l1"
    box_beta: float = 0.0
    rpn_beta: float = 0.0
    proposals: int = 1000
    training_proposals: int = 1000
    sampled_anchors: int = 256
    sampled_proposals: int = 512
    samples: int = 2
    aligned: bool = True
    background_first: bool = False
    reassign_best: bool = True
    least_best: float = 0.3
    binary_masks: bool = True
    whole_anchors: bool = False


# torchvision's maskrcnn_resnet50_fpn, as arguments of `mask_rcnn`: its counts of classes include the background.
TORCHVISION = {
    "backbone": "resnet50",
    "box_beta": 1 / 9,
    "rpn_beta": 1 / 9,
    "training_proposals": 2000,
    "aligned": False,
    "background_first": True,
    "reassign_best": False,
    "least_best": 0.0,
    "binary_masks": False,
    "whole_anchors": True,
}


@register(VARIANTS, task="detection")
@spell_out
def mask_rcnn(
    *,
    trunk: Backbone,
    options: MaskRCNNOptions,
    head: Head,
    pixels: BackbonePixels,
    batch_norm: BatchNorm,
    input_shape: tuple[int | None, int | None, int] = (224, 224, 3),
    name: str | None = None,
) -> keras.Model:
    """Build a Mask R-CNN. `tfvt.models.detection.detector` gives its boxes and masks, `mask_rcnn_losses` trains it.

    Args:
        num_classes: of a box.
        include_top: False returns the neck's maps, as `features` with all levels.
        features: levels of the neck to return as a dict level -> map (B, H, W, pyramid_channels), no head.
        dropout_rate: in front of the classifiers of boxes (the authors have none).
        batch_norm_epsilon, batch_norm_momentum: of every batch norm, the backbone's too.
        input_shape: (height, width, channels) in pixels, any that the backbone takes; None for any.
        name: of the model.

    Returns:
        A `tfvt.models.detection_model.DetectionModel`, see there, or what else is asked for.
    """
    image, maps = trunk.maps(input_shape, pixels, batch_norm)
    if not options.stage_overlaps:
        raise ValueError(f"stage_overlaps={options.stage_overlaps}: expected at least one stage")
    if len(options.stage_overlaps) != len(options.stage_weights):
        raise ValueError(
            f"stage_weights={options.stage_weights}: expected one for each of stage_overlaps={options.stage_overlaps}"
        )
    if options.level_norm:
        maps = {
            level: keras.layers.LayerNormalization(epsilon=1e-5, name=f"neck_{level.lower()}_norm")(x)
            for level, x in maps.items()
        }
    maps = FPN(options.pyramid_channels)(maps)
    if head.features is not None:
        return keras.Model(image, neck_maps(maps, head.features), name=name)
    if not head.include_top:
        return keras.Model(image, maps, name=name)
    inputs = {
        "image": image,
        "size": keras.Input((2,), dtype="int32", name="size", optional=True),
        "boxes": keras.Input((None, 4), name="boxes", optional=True),
        "labels": keras.Input((None,), dtype="int32", name="labels", optional=True),
        "crowd": keras.Input((None,), dtype="bool", name="crowd", optional=True),
        "masks": keras.Input((None, None, None), dtype="uint8", name="masks", optional=True),
        "seed": keras.Input((2,), dtype="int32", name="seed", optional=True),
    }
    size = TrueSizes(name="true_sizes")(image, size=inputs["size"])
    return DetectionModel(inputs, TwoStage(inputs, size, maps, options, head, batch_norm).outputs(), name=name)


def with_coarser(maps: Maps) -> dict[str, keras.KerasTensor]:
    """The neck's maps and a coarser one of every second pixel of the last."""
    last = list(maps)[-1]
    coarser = f"P{level_number(last) + 1}"
    return {**maps, coarser: keras.layers.MaxPooling2D(1, 2, name=f"neck_{coarser.lower()}_pool")(maps[last])}


@dataclass(frozen=True)
class TwoStage:
    """Proposals and stages over the maps of a neck."""

    inputs: Mapping[str, keras.KerasTensor]
    size: keras.KerasTensor
    maps: Maps
    options: MaskRCNNOptions
    head: Head
    batch_norm: BatchNorm

    def outputs(self) -> dict[str, keras.KerasTensor]:
        """See `DetectionModel`."""
        outputs, found = self.proposals()
        number = len(self.options.stage_overlaps)
        suffixes = [f"_{stage + 1}" for stage in range(number)] if number > 1 else [""]
        stages = []
        for stage, suffix in enumerate(suffixes):
            if stages:
                found = self.refined(stages[-1], suffix, self.std(stage - 1))
            stages.append(self.boxes(stage, suffix, found))
            outputs |= {f"{name}{suffix}": stages[-1][name] for name in STAGE_OUTPUTS}
        logits = [stage["class_logits"] for stage in stages]
        detections = RoIDetections(self.std(number - 1), self.options.background_first, name="detections")(
            self.size,
            stages[-1]["proposals"],
            stages[-1]["states"],
            keras.layers.Average(name="mean_logits", dtype="float32")(logits) if number > 1 else logits[0],
            stages[-1]["box_deltas"],
            boxes=self.inputs["boxes"],
        )
        outputs |= detections
        for stage, suffix, weight in zip(stages, suffixes, self.options.stage_weights, strict=True):
            masks = self.masks(stage, suffix, weight, detections["boxes"])
            outputs |= {f"{name}{suffix}": value for name, value in masks.items()}
        return outputs

    @property
    def truth(self) -> dict[str, keras.KerasTensor]:
        """The inputs to learn boxes from."""
        return {name: self.inputs[name] for name in TRUTH}

    def std(self, stage: int) -> tuple[float, ...]:
        """Of the deltas of a stage: halves and thirds in a cascade."""
        return tuple(std / (stage + 1) for std in STD)

    def proposals(self) -> tuple[dict[str, keras.KerasTensor], dict[str, keras.KerasTensor]]:
        """The outputs of the proposal network, and the "boxes" and "scores" of its proposals."""
        options, maps = self.options, with_coarser(self.maps)
        anchors = Anchors(tuple(maps), (8.0,), RATIOS, options.whole_anchors, name="anchors")
        maps = list(maps.values())
        read = LevelTower(options.pyramid_channels, 1, name="decoder_rpn")(maps)
        of_anchors = []
        for name, units in (("logits", 1), ("deltas", 4)):
            x = LevelOutputs(units, anchors.per_pixel, 1, name=f"decoder_rpn_{name}")(read)
            of_anchors.append(keras.layers.Activation("linear", dtype="float32", name=f"rpn_{name}_full")(x))
        of_anchors.append(anchors(self.inputs["image"], maps))
        found = Proposals(
            anchors.per_pixel,
            number=options.proposals,
            training_number=options.training_proposals,
            name="proposals",
        )(maps, self.size, *of_anchors)
        losses = ProposalLosses(
            options.sampled_anchors,
            reassign_best=options.reassign_best,
            beta=options.rpn_beta,
            least_best=options.least_best,
            name="rpn_losses",
        )(self.size, *of_anchors, **self.truth)
        outputs = dict(zip(("rpn_logits", "rpn_deltas", "anchors"), of_anchors, strict=True))
        outputs |= {"rpn_class_loss": losses["class"], "rpn_box_loss": losses["box"], "rpn_count": losses["count"]}
        return outputs, found

    def boxes(self, stage: int, suffix: str, found: dict[str, keras.KerasTensor]) -> dict[str, keras.KerasTensor]:
        """The samples of a stage, "class_logits" and "box_deltas" of them, and its losses."""
        options, std = self.options, self.std(stage)
        samples = ProposalSamples(
            int(self.head.num_classes),
            options.sampled_proposals,
            overlap=options.stage_overlaps[stage],
            std=std,
            background_first=options.background_first,
            reassign_best=options.reassign_best and len(options.stage_overlaps) == 1,
            stream=stage + 1,
            name=f"samples{suffix}",
        )(found["boxes"], found["scores"], **self.truth)
        x = self.pooled(samples["proposals"], 7, f"box_pooling{suffix}")
        x = self.box_vectors(x, f"decoder_box{suffix}")
        if self.head.dropout_rate:
            x = keras.layers.Dropout(self.head.dropout_rate, name=f"head_dropout{suffix}")(x)
        logits = self.classifier(x, int(self.head.num_classes) + 1, 0.01, f"head_class{suffix}")
        deltas = self.classifier(x, 4 * self.box_classes, 0.001, f"head_box{suffix}")
        deltas = keras.layers.Reshape((-1, self.box_classes, 4), dtype="float32", name=f"box_deltas{suffix}")(deltas)
        weight = options.stage_weights[stage]
        losses = BoxLosses(
            options.box_loss,
            options.box_beta,
            std,
            class_weight=weight,
            box_weight=weight * BOX_WEIGHTS[options.box_loss],
            name=f"box_losses{suffix}",
        )(
            logits,
            deltas,
            *(samples[name] for name in ("proposals", "states", "classes", "targets")),
            boxes=self.inputs["boxes"],
        )
        outputs = {"class_logits": logits, "box_deltas": deltas}
        return samples | outputs | {"class_loss": losses["class"], "box_loss": losses["box"], "count": losses["count"]}

    @property
    def box_classes(self) -> int:
        """Classes that have boxes and masks of their own."""
        return int(self.head.num_classes) + self.options.background_first

    def pooled(self, boxes: keras.KerasTensor, size: int, name: str) -> keras.KerasTensor:
        """The maps within boxes (B, R, 4): (B, R, size, size, pyramid_channels)."""
        align = RoIAlign(tuple(self.maps), size, self.options.samples, self.options.aligned, name=name)
        return align(list(self.maps.values()), boxes)

    def box_vectors(self, x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        """What the classifiers read (B, R, `BOX_DIM`) of pooled maps (B, R, 7, 7, C)."""
        dense = 2
        if self.options.box_head == "convolution":
            dense = 1
            for number in range(4):
                x = RoIConv2D(
                    self.options.pyramid_channels,
                    3,
                    padding="same",
                    use_bias=False,
                    kernel_initializer=he_start(),
                    name=f"{name}_conv{number + 1}",
                )(x)
                norm = f"{name}_conv{number + 1}_norm"
                x = BatchNormalization(name=norm, **self.batch_norm.keras_arguments())(x)
                x = keras.layers.ReLU(name=f"{name}_conv{number + 1}_relu")(x)
        x = keras.layers.Reshape((-1, x.shape[2] * x.shape[3] * x.shape[4]), name=f"{name}_flat")(x)
        for number in range(dense):
            x = TokenDense(BOX_DIM, activation="relu", name=f"{name}_dense{number + 1}")(x)
        return x

    @staticmethod
    def classifier(x: keras.KerasTensor, units: int, stddev: float, name: str) -> keras.KerasTensor:
        """(B, R, units), float32."""
        start = keras.initializers.RandomNormal(stddev=stddev)
        return TokenDense(units, kernel_initializer=start, dtype="float32", name=name)(x)

    def refined(
        self, stage: dict[str, keras.KerasTensor], suffix: str, std: tuple[float, ...]
    ) -> dict[str, keras.KerasTensor]:
        """What the next stage reads."""
        given = (stage[name] for name in ("proposals", "states", "classes", "true", "class_logits", "box_deltas"))
        layer = RefinedProposals(std, self.options.background_first, name=f"refined{suffix}")
        return layer(self.size, *given)

    def masks(
        self, stage: dict[str, keras.KerasTensor], suffix: str, weight: float, boxes: keras.KerasTensor
    ) -> dict[str, keras.KerasTensor]:
        """The masks of a stage and their losses."""
        channels, name = self.options.pyramid_channels, f"decoder_mask{suffix}"
        regions = MaskRegions(self.options.sampled_proposals // 4, name=f"mask_regions{suffix}")(
            boxes, stage["proposals"], true_boxes=self.inputs["boxes"]
        )
        x = self.pooled(regions, 14, f"mask_pooling{suffix}")
        for number in range(4):
            # An initializer gives the same numbers whenever it is called: each layer has its own.
            start = {"kernel_initializer": he_start(), "activation": "relu"}
            x = RoIConv2D(channels, 3, padding="same", name=f"{name}_conv{number + 1}", **start)(x)
        start = {"kernel_initializer": he_start(), "activation": "relu"}
        x = RoIConv2DTranspose(channels, 2, strides=2, name=f"{name}_upsample", **start)(x)
        logits = RoIConv2D(
            self.box_classes, 1, kernel_initializer=he_start(), dtype="float32", name=f"head_mask{suffix}"
        )(x)
        losses = MaskLosses(self.options.binary_masks, weight, name=f"mask_losses{suffix}")(
            logits,
            regions,
            *(stage[name] for name in ("states", "classes", "matched")),
            boxes=self.inputs["boxes"],
            masks=self.inputs["masks"],
        )
        return {"mask_logits": logits, "mask_loss": losses["mask"], "mask_count": losses["count"]}


def he_start() -> keras.initializers.Initializer:
    """He's, by the outputs of a kernel."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
