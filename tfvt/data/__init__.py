"""Records on disk -> batches of images: schema, decoding and augmentation, the deterministic pipeline."""

from tfvt.data.images import (
    EvalPreprocessing,
    TrainPreprocessing,
    decode_and_augment,
    decode_and_center_crop,
)
from tfvt.data.mixing import Mixing, mix_batch, soft_targets
from tfvt.data.pipeline import eval_dataset, steps_per_epoch, train_dataset
from tfvt.data.records import RecordsError, RecordSet, open_records

__all__ = [
    "EvalPreprocessing",
    "Mixing",
    "RecordSet",
    "RecordsError",
    "TrainPreprocessing",
    "decode_and_augment",
    "decode_and_center_crop",
    "eval_dataset",
    "mix_batch",
    "open_records",
    "soft_targets",
    "steps_per_epoch",
    "train_dataset",
]
