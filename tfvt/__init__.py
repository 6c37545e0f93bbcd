"""tfvt: token-based and hybrid vision models in Keras 3, checked number by number against the papers.

>>> import tfvt
>>> tfvt.list_models("vt_*")
['vt_resnet101', 'vt_resnet18', 'vt_resnet34', 'vt_resnet50']
>>> model = tfvt.create_model("vt_resnet18", num_classes=10)
>>> print(tfvt.profile(model))
"""

from importlib.metadata import PackageNotFoundError as _PackageNotFoundError
from importlib.metadata import version as _version

from tfvt import layers, models
from tfvt.analysis.profiling import Profile, profile
from tfvt.checkpoints import LoadReport, load_checkpoint
from tfvt.create import create_model
from tfvt.folding import fuse
from tfvt.pretrained import save_pretrained
from tfvt.registry import list_models

try:
    __version__ = _version("tfvt")
except _PackageNotFoundError:  # a checkout that is not installed, as on a machine for measurements
    __version__ = "0+unknown"
__all__ = [
    "LoadReport",
    "Profile",
    "create_model",
    "fuse",
    "layers",
    "list_models",
    "load_checkpoint",
    "models",
    "profile",
    "save_pretrained",
]
