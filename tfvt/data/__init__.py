"""Records on disk -> batches of images: schema, decoding and augmentation, the deterministic stream."""

from tfvt.data.classification import ClassificationSamples, ClassificationServing
from tfvt.data.confusion import confusion_matrix
from tfvt.data.detection import DetectionEvaluation, DetectionSamples, DetectionTraining
from tfvt.data.detections import Detections
from tfvt.data.images import (
    EvalPreprocessing,
    TrainPreprocessing,
    decode_and_augment,
    decode_and_center_crop,
)
from tfvt.data.label_maps import LabelMaps, coarse_model, padded
from tfvt.data.loading import Samples
from tfvt.data.mixing import Mixing, mix_batch, soft_targets
from tfvt.data.order import HostShare
from tfvt.data.records import RecordSet, open_records
from tfvt.data.segmentation import SegmentationEvaluation, SegmentationSamples, SegmentationTraining
from tfvt.data.segmentation_serving import SegmentationServing
from tfvt.data.stream import StreamSettings, eval_stream, image_stream, steps_per_epoch, train_stream
from tfvt.errors import UsageError

__all__ = [
    "ClassificationSamples",
    "ClassificationServing",
    "DetectionEvaluation",
    "DetectionSamples",
    "DetectionTraining",
    "Detections",
    "EvalPreprocessing",
    "HostShare",
    "LabelMaps",
    "Mixing",
    "RecordSet",
    "Samples",
    "SegmentationEvaluation",
    "SegmentationSamples",
    "SegmentationServing",
    "SegmentationTraining",
    "StreamSettings",
    "TrainPreprocessing",
    "UsageError",
    "coarse_model",
    "confusion_matrix",
    "decode_and_augment",
    "decode_and_center_crop",
    "eval_stream",
    "image_stream",
    "mix_batch",
    "open_records",
    "padded",
    "soft_targets",
    "steps_per_epoch",
    "train_stream",
]
