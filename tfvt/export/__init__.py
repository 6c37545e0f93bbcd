"""A model as a file that other programs run: one module a format."""

from tfvt.data.serving import Serving
from tfvt.export.saved_model import MAX_PIXELS, export_saved_model

__all__ = ["MAX_PIXELS", "Serving", "export_saved_model"]
