"""`tfvt records convert` and `tfvt records inspect`."""

import argparse
import sys
import time


def main(argv) -> int:
    """Runs `tfvt records` with these arguments; the exit status, 0 if all went well."""
    arguments = _parser().parse_args(argv)
    from tfvt.data.records import RecordsError  # TensorFlow takes seconds to import: not for a --help

    try:
        arguments.run(arguments)
    except (RecordsError, OSError) as error:
        print(f"tfvt records {arguments.command}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on from here.", file=sys.stderr)
        return 130
    return 0


def _parser():
    parser = argparse.ArgumentParser(prog="tfvt records", description="Image files to TFRecord shards.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{convert,inspect}")

    convert = commands.add_parser(
        "convert",
        help="write images as records",
        description="Write images as records. INPUT is a folder <split>/<class>/<file> with splits train and "
        "validation (or val); a folder with ImageNet's tars or what they unpack to; a CSV or TSV file of path, label "
        "and perhaps split; tfds:NAME, a dataset of TensorFlow Datasets; or, with --layout, a folder of images and "
        "masks. An interrupted conversion goes on where it stopped when the same command is run again.",
    )
    convert.set_defaults(run=_convert)
    convert.add_argument("input", metavar="INPUT", help="where the images are")
    convert.add_argument("output", metavar="OUTPUT", help="folder for the shards and manifest.json")
    convert.add_argument(
        "--format",
        default="auto",
        choices=("auto", "folder", "imagenet", "table", "tfds", "segmentation"),
        help="what INPUT is (default: auto, which sees it)",
    )
    convert.add_argument(
        "--ground-truth",
        metavar="PATH",
        help="ImageNet: development kit or list of synsets (default: looked for in INPUT)",
    )
    convert.add_argument("--data-dir", metavar="DIR", help="TFDS: where it keeps its datasets")
    convert.add_argument("--layout", metavar="FILE", help="images and masks: a YAML file, or ade20k, coco_stuff or lip")
    convert.add_argument("--jpeg", action="store_true", help="make JPEGs of PNGs, of quality 95 (default: keep them)")
    convert.add_argument(
        "--shards", type=int, metavar="N", help="files a split (default: one per 128 MiB; ImageNet: 1024 and 128)"
    )
    convert.add_argument(
        "--label-offset", type=int, default=0, choices=(0, 1), help="stored label of the first class (default: 0)"
    )
    convert.add_argument("--workers", type=int, metavar="N", help="shards at a time (default: one a processor)")
    convert.add_argument(
        "--max-rejects", type=int, default=0, metavar="N", help="bad images to leave out before failing (default: 0)"
    )
    convert.add_argument("--overwrite", action="store_true", help="replace what OUTPUT holds")

    inspect = commands.add_parser(
        "inspect",
        help="check records and print what they hold",
        description="Read every record, check it, and print counts, classes, image sizes and formats.",
    )
    inspect.set_defaults(run=_inspect)
    inspect.add_argument("directory", metavar="DIRECTORY", help="OUTPUT of a conversion")
    return parser


def _convert(arguments):
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
    )
    for split, shards in manifest.splits.items():
        images, size = sum(shard.records for shard in shards), sum(shard.bytes for shard in shards)
        print(f"{split}: {images:,} images in {len(shards):,} shards, {size / 2**20:,.1f} MiB")
    print(f"{len(manifest.class_names):,} classes; {arguments.output} ready in {time.monotonic() - start:.1f} s")


def _inspect(arguments):
    from rich.console import Console

    from .inspect import inspect, print_report

    console = Console()
    for report in inspect(arguments.directory):
        print_report(report, console)
