"""Shards written by an Apache Beam pipeline: on any runner, the same bytes as on one machine.

The plan lies in the output's folder, a shard a line. Beam hands each line's place to some worker, which reads the
images of its shard, writes the shard, and leaves a report beside it, as the workers of one machine do. So every worker
must see input and output under the same paths.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import threading
from collections.abc import Callable, Iterable

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from tfvt.errors import UsageError
from tfvt.files import write_whole
from tfvt.stores import AnyPath, as_path

from .shards import PARTIAL, Finished, ShardPlan, read_finished, write_shard
from .sources import RecordSettings, SourceImage, some

PLAN = "plan.jsonl"  # in .partial
SECONDS_BETWEEN_REPORTS = 1


def write_shards(
    settings: RecordSettings,
    plan: list[ShardPlan],
    output: AnyPath,
    label_offset: int,
    options: Iterable[str],
    report: Callable[[int], None],
) -> list[Finished]:
    """Write the planned shards; returns them in order.

    Args:
        settings: of the source.
        plan: the shards.
        output: folder of the conversion.
        label_offset: stored label of the first class.
        options: of the pipeline, `--name=value` each; Beam passes on to the runner what it does not know.
        report: called now and then with the number of finished images.

    Raises:
        UsageError: the pipeline failed, or did not write into `output`.
    """
    lines = [f"{json.dumps(dataclasses.asdict(planned))}\n".encode() for planned in plan]
    write_whole(output / PARTIAL / PLAN, b"".join(lines))
    places = itertools.accumulate(map(len, lines[:-1]), initial=0)
    write = functools.partial(write_line, settings=settings, output=str(output), label_offset=label_offset)
    pipeline = beam.Pipeline(options=PipelineOptions(list(options)))
    (
        pipeline
        | "lines of the plan" >> beam.Create(list(places))  # where they begin: some runners read no files
        | "one shard a time" >> beam.Reshuffle()
        | "write shards" >> beam.Map(write)
    )
    with _watched(plan, output, report):
        try:
            state = pipeline.run().wait_until_finish()
        except Exception as error:  # runners have their own kinds
            raise UsageError(f"the Beam pipeline failed: {error}") from error
    finished = [read_finished(output, planned, checksum=False) for planned in plan]
    missing = [planned.name for planned, one in zip(plan, finished, strict=True) if one is None]
    if missing:
        raise UsageError(
            f"the Beam pipeline ended ({state}), and {some(missing)} are not in {output}: all workers must see "
            "that folder, and the input, under the same paths"
        )
    return finished


def write_line(place: int, settings: RecordSettings, output: AnyPath | str, label_offset: int) -> None:
    """The work for the line that begins at this byte of the plan."""
    with (as_path(output) / PARTIAL / PLAN).open("rb") as file:
        file.seek(place)
        content = json.loads(file.readline())
    images = tuple(SourceImage(**image) for image in content.pop("images"))
    write_shard(settings, output, label_offset, lambda: None, ShardPlan(images=images, **content))


@contextlib.contextmanager
def _watched(plan, output, report):
    """Reports which shards have arrived while the pipeline runs elsewhere."""
    stop = threading.Event()

    def watch():
        while not stop.wait(SECONDS_BETWEEN_REPORTS):
            written = {path.name for path in output.iterdir()}
            report(sum(len(planned.images) for planned in plan if planned.name in written))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
    report(sum(len(planned.images) for planned in plan))
