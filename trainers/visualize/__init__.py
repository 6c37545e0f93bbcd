"""`tfvt visualize`: pictures of what trained models have learned."""

import argparse
from collections.abc import Callable, Sequence

from rich.console import Console

from tfvt.analysis import draw_path_rates, path_rates
from tfvt.data.records import RecordSet, open_records
from tfvt.data.segmentation_serving import SegmentationServing
from tfvt.errors import UsageError
from tfvt.files import has_folder, printable, whole_file, write_whole
from tfvt.stores import AnyPath, as_path
from tfvt.trainers.errors import LineParser
from tfvt.trainers.recipes.parsing import parse_recipe
from tfvt.trainers.run.folder import open_run
from tfvt.trainers.run.model import read_model

from . import views
from .gallery import gallery_page
from .sources import Picture, Source, open_source, read_curves, read_pictures

ENDINGS = (".png", ".svg", ".pdf")
GALLERY = "gallery.html"
MOST_CLASSES = 6  # that the gallery draws
FIRST_RECORDS = 50  # of a segmentation run, on which the gallery measures attention


def visualize(arguments: Sequence[str]) -> int:
    """Run `tfvt visualize ARGUMENTS` and return its exit status."""
    call = _parser().parse_args(list(arguments))
    return call.draw(call)


def _parser() -> LineParser:
    parser = LineParser(
        prog="tfvt visualize",
        description="Pictures of what trained models have learned. MODEL is the folder of a finished run or a .keras "
        "file with layers of tfvt. `tfvt visualize PICTURE --help` says more; docs/visualize.md shows each.",
    )
    pictures = parser.add_subparsers(dest="picture", required=True, metavar="PICTURE", title="pictures")
    _add_attention(pictures)
    _add_gradients(pictures)
    _add_runs(pictures)
    command = _command(
        pictures,
        "gallery",
        _gallery,
        f"all pictures that apply to one model, in one {GALLERY}",
        f"Write {GALLERY}: every picture above that applies to the model, with captions and numbers, on one page that "
        "needs no other file. It says what does not apply, and why.",
    )
    _add_images(command, 2)
    command.add_argument("--steps", type=int, default=60, help="of gradient ascent on classes; default 60")
    return parser


def _add_attention(pictures) -> None:
    command = _command(
        pictures,
        "tokens",
        _tokens,
        "where visual tokens look, entropy, attention on the foreground",
        "Draw the attention of each visual token of a VT-ResNet or VT-FPN (Figure 6 of Visual Transformers), by itself "
        "(A) and through the tokens that it attends to (Â), and print its entropy. With --records, also print how much "
        "more attention a foreground pixel gets than a background pixel, over images with masks.",
    )
    _add_images(command, 2)
    command.add_argument("--records", default=None, help="records with masks (`tfvt records convert --layout`)")
    command.add_argument("--split", default="validation", help="of those records; default validation")
    command.add_argument("--first", type=int, default=None, help="only the first FIRST records; default all")
    command.add_argument(
        "--background", nargs="+", type=int, default=[0], metavar="CLASS", help="classes of the background; default 0"
    )
    command = _command(
        pictures,
        "attention",
        _attention,
        "attention of each layer and its rollout (ViT, Funnel-ViT, Swin)",
        "Draw what the class token (of a Swin: the middle pixel) looks at in each layer, and the rollout through all.",
    )
    _add_images(command, 2)
    command.add_argument(
        "--place", nargs=2, type=float, default=None, metavar=("DOWN", "RIGHT"), help="the query instead, 0 to 1 each"
    )
    command = _command(
        pictures,
        "localness",
        _localness,
        "how local each layer's attention is (ViT, Funnel-ViT, Swin)",
        "Draw the share of each layer's attention inside the 3x3 around the query: mean and deviation over heads "
        "(Figure 5 of Visual Transformers). Several models share the plot.",
        many="MODEL",
    )
    _add_images(command, 8)


def _add_gradients(pictures) -> None:
    command = _command(
        pictures,
        "saliency",
        _saliency,
        "pixels on which a class depends, of models side by side",
        "Draw the gradient of a class logit by the image for each classifier, side by side (Figure 3 of Funnel-ViT).",
        many="MODEL",
    )
    _add_images(command, 4)
    command.add_argument("--label", type=int, default=None, help="class number; default the first model's answer")
    command = _command(
        pictures,
        "classes",
        _classes,
        "what classifiers take for a class",
        "Draw images found by gradient ascent on class logits, for each classifier (Figure 5 of Funnel-ViT).",
        many="MODEL",
    )
    command.add_argument("--classes", nargs="+", type=int, default=[0, 1, 2, 3], help="class numbers; default 0 1 2 3")
    command.add_argument("--steps", type=int, default=150, help="of the ascent; default 150")
    command.add_argument("--seed", type=int, default=0, help="of the start and the random shifts; default 0")


def _add_runs(pictures) -> None:
    _command(
        pictures,
        "curves",
        _curves,
        "training curves of several runs",
        "Draw the figures of metrics.csv of one or more runs over their steps (Figure 4 of Funnel-ViT). Runs need not "
        "have ended.",
        many="RUN",
    )
    _command(
        pictures,
        "rates",
        _rates,
        "rates of attention and convolution (ACmix)",
        "Print and draw |alpha|, |beta| and log|alpha/beta| of a run's ACmix layers over depth (Figure 5 of the ACmix "
        "paper). Runs of one model share a row of plots.",
        many="RUN",
    )


def _command(
    pictures, name: str, draw: Callable, what: str, description: str, many: str | None = None
) -> argparse.ArgumentParser:
    """A picture's command, which takes one MODEL, or several models or runs: `many` is their name."""
    command = pictures.add_parser(name, help=what, description=description)
    command.set_defaults(draw=draw)
    if many:
        command.add_argument("models", nargs="+", type=as_path, metavar=many, help=_MODELS[many])
    else:
        command.add_argument("model", type=as_path, metavar="MODEL", help=_MODELS["MODEL"])
    default = "gallery" if name == "gallery" else f"{name}.png"
    kind = f"folder for {GALLERY}" if name == "gallery" else "picture to write, .png, .svg or .pdf"
    command.add_argument("--output", type=as_path, default=as_path(default), help=f"{kind}; default {default}")
    return command


def _add_images(command: argparse.ArgumentParser, count: int) -> None:
    command.add_argument("--images", nargs="+", type=as_path, default=[], help="image files to show the model")
    command.add_argument(
        "--count",
        type=int,
        default=count,
        help=f"without --images: the first COUNT validation images of the (first) run; default {count}",
    )


_MODELS = {
    "MODEL": "folder of a finished run, or a .keras file",
    "RUN": "folder of a run",
}


def _tokens(call) -> int:
    _check_picture(call.output)
    source = open_source(call.model)
    records = None
    if call.records is not None:
        _check_positive("--first", call.first)
        records = open_records(call.records, call.split)
    _write(views.tokens(source, _pictures(call, [source])), call.output)
    if records is not None:
        print(_text(views.on_foreground(source, records, call.background, call.first).numbers))
    return 0


def _attention(call) -> int:
    _check_picture(call.output)
    if call.place and not all(0 <= part <= 1 for part in call.place):
        raise UsageError(f"--place takes two numbers from 0 to 1, not {call.place[0]:g} and {call.place[1]:g}")
    source = open_source(call.model)
    _write(views.attention(source, _pictures(call, [source]), call.place), call.output)
    return 0


def _localness(call) -> int:
    _check_picture(call.output)
    sources = [open_source(path) for path in call.models]
    _write(views.local_attention(sources, _pictures(call, sources)), call.output)
    return 0


def _saliency(call) -> int:
    _check_picture(call.output)
    sources = [open_source(path) for path in call.models]
    _write(views.saliency(sources, _pictures(call, sources), call.label), call.output)
    return 0


def _classes(call) -> int:
    _check_picture(call.output)
    _check_positive("--steps", call.steps)
    if call.seed < 0:
        raise UsageError(f"--seed must be at least 0, not {call.seed}")
    sources = [open_source(path) for path in call.models]
    _write(views.class_images(sources, call.classes, call.steps, call.seed), call.output)
    return 0


def _curves(call) -> int:
    _check_picture(call.output)
    _write(views.curves({printable(folder): read_curves(folder) for folder in call.models}), call.output)
    return 0


def _rates(call) -> int:
    _check_picture(call.output)
    shown = {}
    for folder in call.models:
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


def _gallery(call) -> int:
    _check_positive("--steps", call.steps)
    source = open_source(call.model)
    pictures = _pictures(call, [source])
    call.output.mkdir(parents=True, exist_ok=True)
    shown, missing = [], {}
    with Console(stderr=True).status("") as status:
        for title, make in _all_views(source, pictures, call.steps).items():
            status.update(title)
            try:
                shown.append(make())
            except UsageError as error:
                missing[title] = str(error).removeprefix(f"{source.name}: ")
        status.update("drawing")
        size = "x".join("any" if side is None else str(side) for side in source.model.inputs[0].shape[1:3])
        model = f"{source.model.name}, {source.model.count_params():,} parameters, images of {size} pixels"
        page = gallery_page(source.name, model, shown, missing)
    write_whole(call.output / GALLERY, page.encode("utf-8", "backslashreplace"))
    print(f"{len(shown)} pictures, {len(missing)} that do not apply: {printable(call.output / GALLERY)}")
    return 0


def _all_views(source: Source, pictures: Sequence[Picture], steps: int) -> dict[str, Callable[[], views.View]]:
    """Each picture by the name of its command; a UsageError says that it does not apply."""

    def classes():
        count = source.model.output_shape[-1] if isinstance(source.model.output_shape, tuple) else 0
        return views.class_images([source], range(min(count, MOST_CLASSES)), steps, seed=0)

    def curves():
        if source.run is None:
            raise UsageError("a file has no run, whose metrics.csv has the curves")
        return views.curves({source.name: read_curves(source.run.folder)})

    def foreground():
        return views.on_foreground(source, _own_masks(source), background=(0,), first=FIRST_RECORDS)

    return {
        "curves": curves,
        "tokens": lambda: views.tokens(source, pictures),
        "foreground": foreground,
        "attention": lambda: views.attention(source, pictures),
        "localness": lambda: views.local_attention([source], pictures),
        "saliency": lambda: views.saliency([source], pictures),
        "classes": classes,
        "rates": lambda: views.rates(source),
    }


def _own_masks(source: Source) -> RecordSet:
    """The validation records of a segmentation run."""
    if not isinstance(source.serving, SegmentationServing):
        raise UsageError("only the records of a segmentation run have masks")
    data = parse_recipe(["--config", str(source.run.recipe)]).data
    return open_records(data.records, data.validation_split)


def _pictures(call, sources: Sequence[Source]) -> list[Picture]:
    _check_positive("--count", call.count)
    return read_pictures(call.images, sources, call.count)


def _write(view: views.View, output: AnyPath) -> None:
    with whole_file(output, output.suffix) as path:  # matplotlib checks the ending
        view.draw(path)
    if view.numbers:
        print(_text(view.numbers))
    print(f"picture: {printable(output)}")


def _text(rows: Sequence[Sequence[str]]) -> str:
    """A table as lines, its columns one below the other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _check_positive(option: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise UsageError(f"{option} must be at least 1, not {value}")


def _check_picture(path: AnyPath) -> None:
    """Refuse a picture that cannot be written, before reading models."""
    if path.suffix not in ENDINGS:
        raise UsageError(f"--output {printable(path)}: expected a name that ends in .png, .svg or .pdf")
    if not has_folder(path):
        raise UsageError(f"--output {printable(path)}: there is no folder {printable(path.parent)}")
