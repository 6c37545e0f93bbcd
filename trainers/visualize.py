"""`tfvt visualize`: pictures of what trained models have learned."""

from collections.abc import Sequence

from tfvt.analysis import draw_path_rates, path_rates
from tfvt.errors import UsageError
from tfvt.files import has_folder, printable, whole_file
from tfvt.stores import AnyPath, as_path

from .errors import LineParser
from .run.folder import open_run
from .run.model import read_model


def visualize(arguments: Sequence[str]) -> int:
    """Run `tfvt visualize ARGUMENTS` and return its exit status."""
    parser = LineParser(prog="tfvt visualize")
    pictures = parser.add_subparsers(dest="picture", required=True, metavar="PICTURE", help="rates")
    rates = pictures.add_parser(
        "rates",
        help="rates of attention and convolution",
        description="Print and draw |alpha|, |beta| and log|alpha/beta| of a run's ACmix layers over depth (Figure 5 "
        "of the ACmix paper). Runs of one model share a row of plots.",
    )
    rates.set_defaults(draw=_rates)
    rates.add_argument("runs", nargs="+", type=as_path, metavar="RUN", help="folder of a finished run")
    rates.add_argument(
        "--output", type=as_path, default="rates.png", help="picture to write, .png, .svg or .pdf; default rates.png"
    )
    call = parser.parse_args(list(arguments))
    return call.draw(call)


def _rates(call) -> int:
    _check_picture(call.output)
    shown = {}
    for folder in call.runs:
        try:
            shown[printable(folder)] = path_rates(read_model(open_run(folder)))
        except ValueError as error:
            raise UsageError(f"{printable(folder)}: {error}") from error
    for name, rates in shown.items():
        print(f"{name}: {rates.model}\n{rates}\n")
    with whole_file(call.output, call.output.suffix) as path:  # matplotlib checks the ending
        draw_path_rates(shown, path)
    print(f"picture: {printable(call.output)}")
    return 0


def _check_picture(path: AnyPath) -> None:
    """Refuse a picture that cannot be written, before reading models."""
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(f"--output {printable(path)}: expected a name that ends in .png, .svg or .pdf")
    if not has_folder(path):
        raise UsageError(f"--output {printable(path)}: there is no folder {printable(path.parent)}")
