"""Model families, a module each; importing this package registers every name."""

from tfvt.models import acmix_resnet, pvt, resnet, san, swin, vit, vt_resnet

__all__ = ["acmix_resnet", "pvt", "resnet", "san", "swin", "vit", "vt_resnet"]
