"""Every registry name as a file of every format, small and shallow. `make test-all` installs the runtimes."""

import dataclasses

import pytest
from runtime_files import RUNTIMES, check_file, spread, whole_detector

import tests.contracts as contracts
import tfvt
from tfvt.registry import get_variant

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the converters give many


def shallow(name):
    """Options of a model with one block in each stage."""
    row = get_variant(name).row
    if "blocks" in row:
        return {"blocks": tuple(dataclasses.asdict(block) | {"layers": 1} for block in row["blocks"])}
    if "depths" in row:
        return {"depths": (1,) * len(row["depths"])}
    return {"backbone_options": row.get("backbone_options", {}) | shallow(row["backbone"])}


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("file_format", RUNTIMES)
@pytest.mark.parametrize("name", tfvt.list_models())
def test_a_name_in_a_format(name, file_format, tmp_path):
    shape = contracts.image_shape(name)
    model = contracts.create(name, num_classes=5, input_shape=shape, **shallow(name))
    if get_variant(name).task == "detection":
        spread(model)  # a new model's scores are so near one another that rounding orders its boxes
        model = whole_detector(model)
    if "mask_rcnn" in name and file_format == "litert":  # slices of five axes
        with pytest.raises(ValueError, match=r"^LiteRT has no builtin operation for the \w+ of layer"):
            check_file(model, file_format, tmp_path, [shape[:2]])
        return
    check_file(model, file_format, tmp_path, [shape[:2]])
