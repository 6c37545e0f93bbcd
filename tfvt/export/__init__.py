"""A model as a file that other programs run: one module a format."""

from tfvt.data.serving import Serving
from tfvt.export.keras_file import export_keras
from tfvt.export.litert import export_litert, open_litert
from tfvt.export.onnx import export_onnx, open_onnx
from tfvt.export.openvino import export_openvino, open_openvino
from tfvt.export.saved_model import MAX_PIXELS, export_saved_model

__all__ = [
    "MAX_PIXELS",
    "Serving",
    "export_keras",
    "export_litert",
    "export_onnx",
    "export_openvino",
    "export_saved_model",
    "open_litert",
    "open_onnx",
    "open_openvino",
]
