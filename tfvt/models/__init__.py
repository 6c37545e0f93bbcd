"""Model families; importing this package registers every name."""

from tfvt.models.acmix_resnet import acmix_resnet
from tfvt.models.pvt import pvt
from tfvt.models.resnet import resnet
from tfvt.models.san import san
from tfvt.models.swin import swin
from tfvt.models.vit import vit
from tfvt.models.vt_resnet import vt_resnet

__all__ = ["acmix_resnet", "pvt", "resnet", "san", "swin", "vit", "vt_resnet"]
