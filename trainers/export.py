"""`tfvt export`: the model of a finished run as a file that other programs run."""

from collections.abc import Sequence

from tfvt.errors import UsageError
from tfvt.export import MAX_PIXELS, export_saved_model
from tfvt.export.card import write_card
from tfvt.files import printable
from tfvt.stores import as_path

from .errors import LineParser
from .run.card import run_card
from .serve import open_finished


def export(arguments: Sequence[str]) -> int:
    """Run `tfvt export ARGUMENTS` and return its exit status."""
    parser = LineParser(prog="tfvt export")
    parser.add_argument("run", type=as_path, help="folder of a finished run")
    parser.add_argument(
        "output", nargs="?", type=as_path, default=None, help="folder to write; default RUN/saved_model"
    )
    parser.add_argument(
        "--max_pixels", type=int, default=MAX_PIXELS, help=f"largest image that the model accepts, default {MAX_PIXELS}"
    )
    call = parser.parse_args(list(arguments))
    run, recipe, model, serving = open_finished(call.run, "tensorflow")
    output = call.output or run.saved_model
    try:
        export_saved_model(model, output, serving, max_pixels=call.max_pixels)
    except ValueError as error:
        raise UsageError(str(error)) from error
    print(f"SavedModel: {printable(output)}")
    card = write_card(output, "savedmodel", run_card(run, recipe, model, serving))
    print(f"Card: {printable(card) if card else 'none, since its names are taken'}")
    return 0
