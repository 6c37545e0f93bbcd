"""The folder of a detection run."""

from box_model import BOX_NAMES, box_model

from tfvt.data.detection import DetectionEvaluation
from tfvt.trainers.recipes.parsing import parse_recipe, write_recipe
from tfvt.trainers.run.folder import Run
from tfvt.trainers.run.model import write_model, write_serving
from tfvt.trainers.tasks.detection_serving import DetectionServing

CATEGORY_IDS = (1, 7, 90, 4)


def write_box_run(folder):
    """Leave what a run leaves, with a model without training."""
    run = Run(folder)
    run.folder.mkdir(parents=True)
    write_model(run, box_model())
    evaluation = DetectionEvaluation(64, 96, candidates=50, score_threshold=0.25, max_detections=12)
    write_serving(run, DetectionServing(BOX_NAMES, evaluation, CATEGORY_IDS))
    write_recipe(parse_recipe(["--model.name", "retinanet_resnet50", "--data.records", "none"]), run.recipe)
