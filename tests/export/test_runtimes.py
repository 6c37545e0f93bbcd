"""Files of ONNX, OpenVINO and LiteRT, run by their own runtimes, beside Keras."""

import keras
import pytest
from runtime_files import RUNTIMES, check_file, spread, whole_detector

import tfvt
from tests.models.test_retinanet import TINY

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]  # the converters give many

FIXED = [(64, 96)]
ANY = [(64, 96), (81, 135)]
SMALL = {
    "resnet18": (ANY, {"width": 8, "depths": (1, 1)}),
    "vt_resnet18": (ANY, {"width": 16, "depths": (1, 1, 1), "num_modules": 1, "num_tokens": 8}),
    "vit_tiny16": (FIXED, {"blocks": ({"layers": 1, "hidden_dim": 64, "mlp_dim": 64},)}),
    "pvt_tiny": (FIXED, {"depths": (1, 1, 1, 1)}),
    "acmix_pvt_tiny": (FIXED, {"depths": (1, 1, 1, 1)}),
    "swin_tiny": (ANY, {"width": 32, "depths": (2, 1)}),
    "acmix_swin_tiny": (ANY, {"width": 32, "depths": (2, 1)}),
    "conv_swin_tiny": (ANY, {"width": 32, "depths": (2, 1)}),
    "acmix_resnet26": (ANY, {"width": 16, "depths": (1, 1)}),
    "san10": (ANY, {"width": 64, "depths": (1, 1)}),
    "acmix_san10": (ANY, {"width": 64, "depths": (1, 1)}),
}


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("file_format", RUNTIMES)
@pytest.mark.parametrize("name", SMALL)
def test_the_smallest_model_of_each_family(name, file_format, tmp_path):
    sizes, options = SMALL[name]
    shape = (*sizes[0], 3) if len(sizes) == 1 else (None, None, 3)
    model = tfvt.create_model(name, num_classes=5, input_shape=shape, **options)
    spread(model)
    check_file(model, file_format, tmp_path, sizes)


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("file_format", RUNTIMES)
def test_a_segmentation_model(file_format, tmp_path):
    small = {"width": 8, "depths": (1, 1, 1, 1)}
    model = tfvt.create_model(
        "fpn_resnet50", num_classes=5, input_shape=(None, None, 3), backbone="resnet18", backbone_options=small
    )
    spread(model)
    check_file(model, file_format, tmp_path, ANY)


@pytest.mark.parametrize("file_format", RUNTIMES)
def test_a_detector_by_a_process_of_its_own(file_format, tmp_path):
    """Files end in boxes of images of any size."""
    keras.utils.set_random_seed(0)
    options = TINY | {"extra_levels": 1, "input_shape": (None, None, 3)}
    model = whole_detector(tfvt.create_model("retinanet_resnet50", num_classes=3, **options))
    check_file(model, file_format, tmp_path, [(64, 96), (51, 66)])
