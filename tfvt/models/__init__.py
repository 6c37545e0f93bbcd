"""Model families; importing this package registers every name."""

from tfvt.models.resnet import resnet
from tfvt.models.vt_resnet import vt_resnet

__all__ = ["resnet", "vt_resnet"]
