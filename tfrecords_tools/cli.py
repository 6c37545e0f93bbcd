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
        help="write an image folder as records",
        description="Write an image folder <split>/<class>/<file> as records. An interrupted conversion goes on "
        "where it stopped when the same command is run again.",
    )
    convert.set_defaults(run=_convert)
    convert.add_argument("input", metavar="INPUT", help="folder with train/<class>/... and validation/ or val/")
    convert.add_argument("output", metavar="OUTPUT", help="folder for the shards and manifest.json")
    convert.add_argument("--shards", type=int, metavar="N", help="files a split (default: one per 128 MiB)")
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

    start = time.monotonic()
    manifest = convert(
        arguments.input,
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
