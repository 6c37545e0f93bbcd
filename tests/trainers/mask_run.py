"""The folder of a segmentation run."""

from mask_model import MASK_NAMES, mask_model

from tfvt.data.segmentation import SegmentationEvaluation
from tfvt.data.segmentation_serving import SegmentationServing
from tfvt.trainers.recipes.parsing import parse_recipe, write_recipe
from tfvt.trainers.run.folder import Run
from tfvt.trainers.run.model import write_model, write_serving


def write_mask_run(folder):
    """Leave what a run leaves, with a model without training."""
    run = Run(folder)
    run.folder.mkdir(parents=True)
    write_model(run, mask_model())
    write_serving(run, SegmentationServing(MASK_NAMES, SegmentationEvaluation(scale=(128, 96))))
    write_recipe(parse_recipe(["--model.name", "fpn_resnet50", "--data.records", "none"]), run.recipe)
