"""Weights that others trained, loaded into a model: one file per source of checkpoints."""

from tfvt.checkpoints.loading import LoadReport, load_checkpoint

__all__ = ["LoadReport", "load_checkpoint"]
