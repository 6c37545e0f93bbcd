"""`tfvt records`: image files to TFRecord shards, and what is in them."""

import argparse
import signal
import sys
import threading
import time
from collections.abc import Sequence

from tfvt.errors import UsageError, complain
from tfvt.files import has_folder, write_whole
from tfvt.stores import as_path


def main(argv: Sequence[str]) -> int:
    """Runs `tfvt records` with these arguments; the exit status.

    0: all went well. 1: `verify` found problems. 2: a mistake, or something that the command could not do. 130: Ctrl-C.
    """
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except BrokenPipeError:  # `tfvt records inspect | head -1`: the caller handles it and ends quietly
        raise
    except (UsageError, OSError) as error:
        return complain(f"records {arguments.command}", error)
    except KeyboardInterrupt:
        hint = " The same command continues from here." if arguments.command == "convert" else ""
        print(f"\nInterrupted.{hint}", file=sys.stderr)
        return 130


def _parser():
    parser = argparse.ArgumentParser(prog="tfvt records", description="Image files to TFRecord shards.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{convert,inspect,verify,index,serve}")
    _add_convert(commands)
    _add_inspect(commands)
    _add_verify(commands)
    _add_index(commands)
    _add_serve(commands)
    return parser


def _add_convert(commands):
    convert = commands.add_parser(
        "convert",
        help="write images as records",
        description="Write images as records. INPUT is a folder <split>/<class>/<file> with splits train and "
        "validation (or val); a folder with ImageNet's tars or what they unpack to; a CSV or TSV file of path, label "
        "and perhaps split; tfds:NAME, a dataset of TensorFlow Datasets; with --layout, a folder of images and masks; "
        "or images with boxes: a folder of COCO or Pascal VOC, or a CSV or TSV file of path, xmin, ymin, xmax, ymax, "
        "label and perhaps split. The same command continues an interrupted conversion where it stopped.",
    )
    convert.set_defaults(run=_convert)
    convert.add_argument("input", metavar="INPUT", help="where the images are")
    convert.add_argument("output", metavar="OUTPUT", help="folder for the shards and manifest.json")
    convert.add_argument(
        "--format",
        default="auto",
        choices=("auto", "folder", "imagenet", "table", "tfds", "segmentation", "coco", "voc", "boxes"),
        help="what INPUT is (default: auto, which detects it)",
    )
    convert.add_argument(
        "--ground-truth",
        metavar="PATH",
        help="ImageNet: development kit or list of synsets (default: looked for in INPUT)",
    )
    convert.add_argument("--data-dir", metavar="DIR", help="TFDS: where it keeps its datasets")
    convert.add_argument(
        "--layout",
        metavar="FILE",
        help="images and masks: a YAML file, or ade20k, coco_stuff or lip; COCO: a YAML file",
    )
    convert.add_argument(
        "--jpeg",
        action="store_true",
        help="convert PNG, WebP, BMP and GIF files to JPEGs of quality 95 (default: keep PNGs, reject the others)",
    )
    convert.add_argument(
        "--shards", type=int, metavar="N", help="files per split (default: one per 128 MiB; ImageNet: 1024 and 128)"
    )
    convert.add_argument(
        "--label-offset", type=int, default=0, choices=(0, 1), help="stored label of the first class (default: 0)"
    )
    convert.add_argument("--workers", type=int, metavar="N", help="shards at a time (default: one per processor)")
    convert.add_argument(
        "--max-rejects", type=int, default=0, metavar="N", help="bad images to leave out before failing (default: 0)"
    )
    convert.add_argument("--overwrite", action="store_true", help="replace the conversion in OUTPUT")
    convert.add_argument(
        "--beam",
        nargs=argparse.REMAINDER,
        metavar="OPTION",
        help="write the shards with an Apache Beam pipeline; all later arguments go to Beam and its runner, such as "
        "--runner=DataflowRunner",
    )


def _add_inspect(commands):
    inspect = commands.add_parser(
        "inspect",
        help="check records and print what they hold",
        description="Read every record, check it, and print counts, classes, image sizes and formats.",
    )
    inspect.set_defaults(run=_inspect)
    inspect.add_argument("directory", metavar="DIRECTORY", help="folder with shards and manifest.json")
    inspect.add_argument("--workers", type=int, metavar="N", help="shards at a time (default: one per processor)")
    inspect.add_argument(
        "--contact-sheet", type=_png, metavar="FILE.png", help="also write a picture of records drawn at random"
    )
    inspect.add_argument("-n", type=int, default=64, metavar="N", help="records in the picture (default: 64)")
    inspect.add_argument("--seed", type=int, default=0, metavar="N", help="which records it shows (default: 0)")


def _add_verify(commands):
    verify = commands.add_parser(
        "verify",
        help="find everything that is wrong with records",
        description="Read and decode everything, and list what is wrong. The exit status is 1 if there is a problem, "
        "and 2 if the set cannot be read at all; warnings (the same image twice, say) count only with --strict.",
    )
    verify.set_defaults(run=_verify)
    verify.add_argument("directory", metavar="DIRECTORY", help="folder with shards and manifest.json")
    verify.add_argument("--split", metavar="NAME", help="only this one")
    verify.add_argument("--workers", type=int, metavar="N", help="shards at a time (default: one per processor)")
    verify.add_argument("--no-decode", dest="decode", action="store_false", help="look at the images' headers only")
    verify.add_argument("--strict", action="store_true", help="exit status 1 for warnings as well")
    verify.add_argument("--json", type=_new_file, metavar="FILE", help="also write all findings as JSON")


def _add_index(commands):
    index = commands.add_parser(
        "index",
        help="write the manifest of shards that have none",
        description="Read shards <split>-00000-of-0000N that slim, imagenet_to_gcs or a lost conversion left, in "
        "DIRECTORY or in its folders train and validation, and write their manifest.json.",
    )
    index.set_defaults(run=_index)
    index.add_argument("directory", metavar="DIRECTORY", help="folder with shards")
    index.add_argument(
        "--label-offset", type=int, choices=(0, 1), help="stored label of the first class, if the labels do not show it"
    )
    index.add_argument("--class-names", metavar="FILE", help="one name a line (default: the records' names)")
    index.add_argument("--workers", type=int, metavar="N", help="shards at a time (default: one per processor)")
    index.add_argument("--overwrite", action="store_true", help="replace the manifest")


def _add_serve(commands):
    serve = commands.add_parser(
        "serve",
        help="read, decode and augment on this machine for training on others",
        description="Start a tf.data service dispatcher and its worker, which prepare batches for every training "
        "that names their address (data.servers), until Ctrl-C. They read the records at the paths that "
        "the training gives: both machines need the same folder at the same place.",
    )
    serve.set_defaults(run=_serve)
    serve.add_argument(
        "--host", default="localhost", help="name under which the training reaches this machine (default: localhost)"
    )
    serve.add_argument("--port", type=int, default=0, help="of the dispatcher (default: any free port)")
    serve.add_argument("--worker-port", type=int, default=0, help="of the worker (default: any free port)")


def _new_file(text):
    """A path in a folder that exists: checked before hours of reading, whose findings go to it."""
    path = as_path(text)
    try:
        fits = has_folder(path) and not path.is_dir()
    except OSError as error:  # of a store
        raise argparse.ArgumentTypeError(f"{text} cannot be written: {error.strerror}") from None
    if not fits:
        raise argparse.ArgumentTypeError(f"{text} cannot be written: name a file in a folder that exists")
    return path


def _png(text):
    if not text.lower().endswith(".png"):
        raise argparse.ArgumentTypeError(f"{text} must end in .png")
    return _new_file(text)


def _convert(arguments):
    from tfvt.data.records import counted

    from .convert import convert
    from .sources import open_source

    start = time.monotonic()
    source = open_source(
        arguments.input,
        arguments.format,
        ground_truth=arguments.ground_truth,
        data_dir=arguments.data_dir,
        layout=arguments.layout,
        jpeg=arguments.jpeg,
    )
    manifest = convert(
        source,
        arguments.output,
        shards=arguments.shards,
        label_offset=arguments.label_offset,
        workers=arguments.workers,
        max_rejects=arguments.max_rejects,
        overwrite=arguments.overwrite,
        beam=arguments.beam,
    )
    _print_manifest(manifest)
    print(
        f"{counted(len(manifest.class_names), 'class')}; {arguments.output} ready in {time.monotonic() - start:.1f} s"
    )


def _print_manifest(manifest):
    from tfvt.data.records import counted

    for split, shards in manifest.splits.items():
        images, size = sum(shard.records for shard in shards), sum(shard.bytes for shard in shards)
        print(f"{split}: {counted(images, 'image')} in {counted(len(shards), 'shard')}, {size / 2**20:,.1f} MiB")


def _inspect(arguments):
    from rich.console import Console

    from .contact_sheet import contact_sheet
    from .inspect import inspect, print_report

    console = Console()
    for report in inspect(arguments.directory, workers=arguments.workers):
        print_report(report, console)
    if arguments.contact_sheet:
        contact_sheet(arguments.directory, arguments.contact_sheet, count=arguments.n, seed=arguments.seed)


def _verify(arguments):
    from rich.console import Console

    from .verify import print_verification, to_json, verify

    verification = verify(
        arguments.directory, split=arguments.split, workers=arguments.workers, decode=arguments.decode
    )
    print_verification(verification, Console())
    if arguments.json:
        write_whole(arguments.json, to_json(verification).encode())
    return 1 if verification.problems or (arguments.strict and verification.warnings) else 0


def _index(arguments):
    from tfvt.data.records import counted

    from .index import index, read_class_names

    manifest = index(
        arguments.directory,
        label_offset=arguments.label_offset,
        class_names=read_class_names(arguments.class_names) if arguments.class_names else None,
        workers=arguments.workers,
        overwrite=arguments.overwrite,
    )
    _print_manifest(manifest)
    print(f"{counted(len(manifest.class_names), 'class')}, labels from {manifest.label_offset}")


def _serve(arguments):
    from tfvt.data.service import Server

    server = Server(host=arguments.host, port=arguments.port, worker_port=arguments.worker_port)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    print(f"serving at {server.address}; Ctrl-C stops", flush=True)
    stop.wait()
    server.stop()
