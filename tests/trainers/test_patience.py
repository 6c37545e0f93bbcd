"""A shared folder that is away for a while: the run waits for it, and ends as if nothing had been."""

import errno
import functools
import os
import signal
from pathlib import Path

import pytest
import tensorflow as tf
from record_files import record, train_batches, write_records
from test_divergence import HERE, make_bad
from test_resume import logged, newest

from tfvt.data.records import open_records
from tfvt.errors import UsageError
from tfvt.files import write_whole
from tfvt.trainers import loop, patience, supervise
from tfvt.trainers.batches import PatientBatches
from tfvt.trainers.cli import main
from tfvt.trainers.engines.tensorflow_batches import BatchIterator, readable
from tfvt.trainers.patience import WAITS, patiently
from tfvt.trainers.run import log
from tfvt.trainers.run.log import MetricsFile, TensorBoard


@pytest.fixture
def waits(monkeypatch):
    """The seconds that would have been slept, and what happens meanwhile: `then`."""

    class Waits(list):
        then = staticmethod(lambda: None)

    calls = Waits()

    def sleep(seconds):
        calls.append(seconds)
        calls.then()

    monkeypatch.setattr(patience.time, "sleep", sleep)
    return calls


def test_a_run_whose_folder_is_away_waits_for_it(config, tmp_path, monkeypatch, waits, capsys):
    folder, aside = tmp_path / "run", tmp_path / "aside"
    flags = ["--epochs=1", "--schedule.warmup_epochs=0"]
    saves = []

    def save(*arguments):
        saves.append(arguments)
        if len(saves) == 2:
            folder.rename(aside)
        return loop_save(*arguments)

    def come_back():
        if len(waits) == 2:
            aside.rename(folder)

    loop_save, waits.then = loop.save_checkpoint, come_back
    monkeypatch.setattr(loop, "save_checkpoint", save)
    assert main(["train", "--config", str(config), "--output", str(folder), *flags]) == 0
    assert waits == [1, 2]
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "trying again" in line]
    assert str(folder / "checkpoints") in line
    assert newest(folder).step == 6
    assert (folder / "final.keras").is_file()


def test_records_that_are_away_are_read_from_where_they_failed(records, tmp_path, waits):
    moved, aside = tmp_path / "records", tmp_path / "aside"
    moved.mkdir()
    for path in records.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    opened = open_records(moved, "train")
    settings = {"batch_size": 4, "seed": 3, "block_size": 4}
    expected = [batch["id"].tolist() for batch in train_batches(opened, **settings).take(24).as_numpy_iterator()]
    waits.then = functools.partial(aside.rename, moved)
    made = []

    def make(fetched):
        made.append(fetched)
        return BatchIterator(iter(train_batches(opened, start_step=fetched, **settings)))

    batches, ids = PatientBatches(make, opened), []
    for step in range(24):
        if step == 3:
            moved.rename(aside)
        ids.append(next(batches)["id"].numpy().tolist())
    assert ids == expected
    assert waits == [1]
    assert made[0] == 0
    assert 3 <= made[1] < 24


def test_an_evaluation_continues_after_the_batches_that_it_has(config, tmp_path, monkeypatch, waits):
    flags = ["train", "--config", str(config), "--epochs=1", "--schedule.warmup_epochs=0", "--output"]
    assert main([*flags, str(tmp_path / "whole")]) == 0
    made, eval_stream = [], loop.eval_stream

    def broken(batch):
        with tf.control_dependencies([tf.debugging.Assert(False, ["the folder is away"])]):
            return tf.nest.map_structure(tf.identity, batch)

    def stream(*arguments):
        made.append(arguments)
        batches = eval_stream(*arguments)
        return batches if len(made) > 1 else batches.take(1).concatenate(batches.skip(1).map(broken))

    monkeypatch.setattr(loop, "eval_stream", stream)
    assert main([*flags, str(tmp_path / "run")]) == 0
    assert len(made) == 2
    assert logged(tmp_path / "run") == logged(tmp_path / "whole")


def test_a_damaged_record_is_not_waited_for(records, tmp_path, waits):
    for path in records.iterdir():
        content = path.read_bytes()
        if "train" in path.name:
            content = content[:-1] + b"?"
        (tmp_path / path.name).write_bytes(content)
    opened = open_records(tmp_path, "train")
    settings = {"batch_size": 48, "seed": 0}
    batches = PatientBatches(lambda _: BatchIterator(iter(train_batches(opened, **settings))), opened)
    with pytest.raises(UsageError, match="is damaged or cut off"):
        next(batches)
    assert waits == []


@pytest.mark.parametrize(("number", "tries"), [(errno.ESTALE, len(WAITS) + 1), (errno.EIO, 7), (errno.ENOSPC, 1)])
def test_a_minute_of_patience_with_what_may_pass(number, tries, waits, capsys):
    calls = []

    def write():
        calls.append(1)
        raise OSError(number, "no way", "/shared/run/metrics.csv")

    with pytest.raises(OSError, match="no way"):
        patiently(write)
    assert len(calls) == tries
    assert sum(waits) == (60 if tries > 1 else 0)
    assert len(capsys.readouterr().err.splitlines()) == (1 if tries > 1 else 0)


class Flaky:
    """Numbers from `first` on; each of `failures` is raised once instead of the number that is its key."""

    def __init__(self, first, failures):
        self.number = first
        self.failures = failures

    def __next__(self):
        if error := self.failures.pop(self.number, None):
            raise error
        self.number += 1
        return self.number - 1


def test_batches_of_a_compiled_call_are_not_fetched_again(records):
    failures = {4: UsageError("gone")}
    batches = PatientBatches(lambda first: BatchIterator(Flaky(first, failures)), open_records(records, "train"))
    iterator = batches.iterator_for(3)
    assert [next(iterator) for _ in range(3)] == [0, 1, 2]
    assert [next(batches) for _ in range(3)] == [3, 4, 5]


def test_reading_is_tried_again_as_long_as_files_fail(records, waits):
    failures = [tf.errors.UnknownError(None, None, "/shared/train; Stale file handle") for _ in range(4)]
    starts = iter([FileNotFoundError(errno.ENOENT, "No such file", "/shared/train"), None])

    def make(first):
        if error := next(starts, None):
            raise error
        return BatchIterator(Flaky(first, {2: failures.pop()} if failures else {}))

    batches = PatientBatches(make, open_records(records, "train"))
    assert waits == [1]
    assert [next(batches) for _ in range(4)] == [0, 1, 2, 3]
    assert waits == [1, 1, 2, 4]


def test_other_records_do_not_take_the_place_of_those_that_were_away(tmp_path):
    opened = write_records(tmp_path / "records", (6,))
    write_records(tmp_path / "records", (6,), replaced={0: record(0, label=2)})
    batches = PatientBatches(lambda first: BatchIterator(Flaky(first, {0: UsageError("gone")})), opened)
    with pytest.raises(UsageError, match="came back with other records"):
        next(batches)


FETCHING = "{{function_node __wrapped__IteratorGetNextAsOptional_device_/job:worker}} "


@pytest.mark.parametrize("kind", ["UnknownError", "UnavailableError", "FailedPreconditionError", "NotFoundError"])
def test_a_file_that_cannot_be_read_is_one_line(kind):
    error = getattr(tf.errors, kind)(
        None, None, f"{FETCHING}/shared/train; Stale file handle [Op:IteratorGetNextAsOptional] name: "
    )
    with pytest.raises(UsageError, match=r"^/shared/train; Stale file handle$"):
        next(BatchIterator(Flaky(0, {0: error})))


COMPILED = """Graph execution error:

Detected at node DatasetToSingleElement defined at (most recent call last):
<stack traces unavailable>
Error in user-defined function passed to MapDataset:17 transformation with iterator: Iterator::Root::Prefetch::Map: \
/shared/train; Stale file handle
\t [[{{node DatasetToSingleElement}}]]
\t [[while/body/_1/while/IteratorGetNext]] [Op:__inference__train_steps_6417]"""


@pytest.mark.parametrize("kind", ["UnknownError", "UnavailableError", "FailedPreconditionError", "NotFoundError"])
def test_a_file_that_cannot_be_read_in_a_compiled_call_is_one_line(kind):
    with pytest.raises(UsageError, match=r"^/shared/train; Stale file handle$"), readable():
        raise getattr(tf.errors, kind)(None, None, COMPILED)
    lost = COMPILED.replace("DatasetToSingleElement", "while/body/CollectiveReduceV2")
    with pytest.raises(tf.errors.UnavailableError), readable():
        raise tf.errors.UnavailableError(None, None, lost)


def test_a_shard_that_is_gone_in_a_call_of_several_steps_is_one_line(config, records, tmp_path, monkeypatch, fails):
    """FailedPreconditionError: a folder is in its place. The compiled call has no second try."""
    train_stream, shard = loop.train_stream, tmp_path / "shard"
    shard.mkdir()

    def stream(*arguments, **options):
        batches = train_stream(*arguments, **options)

        def broken(batch):
            found = tf.data.TFRecordDataset(str(shard)).take(1).get_single_element()
            with tf.control_dependencies([tf.print(found, output_stream=f"file://{tmp_path}/printed")]):
                return tf.nest.map_structure(tf.identity, batch)

        return batches.take(6).concatenate(batches.skip(6).map(broken))

    monkeypatch.setattr(loop, "train_stream", stream)
    line = fails("train", "--config", config, "--steps_per_call=4", "--epochs=2", "--output", tmp_path / "run")
    assert line == f"tfvt train: error: {shard}; Is a directory"
    assert newest(tmp_path / "run").step == 6


def test_a_lost_process_is_no_file_that_cannot_be_read():
    error = tf.errors.UnavailableError(None, None, "{{function_node __wrapped__CollectiveReduceV2}} Socket closed")
    with pytest.raises(tf.errors.UnavailableError):
        next(BatchIterator(Flaky(0, {0: error})))


def test_a_row_that_is_written_a_second_time_is_there_once(tmp_path, waits, monkeypatch):
    path = tmp_path / "metrics.csv"
    metrics = MetricsFile(path, ["epoch", "step"], 0)
    errors = [OSError(errno.EIO, "Input/output error")]

    def write(path, content):
        write_whole(path, content)
        if errors:
            raise errors.pop()  # the answer of the server is lost

    monkeypatch.setattr(log, "write_whole", write)
    for epoch in (1, 2):
        patiently(functools.partial(metrics.write, {"epoch": epoch, "step": 6 * epoch}))
    assert waits == [1]
    assert path.read_text().split() == ["epoch,step", "1,6", "2,12"]


def test_a_run_that_returns_to_a_checkpoint_waits_for_its_folder(config, tmp_path, monkeypatch, waits):
    make_bad(monkeypatch)
    folder, aside = tmp_path / "run", tmp_path / "aside"
    kept = loop.write_diverged

    def write_diverged(*arguments):
        kept(*arguments)
        folder.rename(aside)

    monkeypatch.setattr(loop, "write_diverged", write_diverged)
    waits.then = functools.partial(aside.rename, folder)
    assert main(["train", "--config", str(config), *HERE, "--divergence.roll_backs=1", "--output", str(folder)]) == 0
    assert waits == [1]
    assert newest(folder).step == 18


@pytest.fixture
def group(tmp_path, monkeypatch):
    """In place of processes: a group that begins a run and is lost while its folder is away; the next one ends.

    The flags of each.
    """
    starts = []

    def run_group(count, flags, meanwhile=lambda: None):
        starts.append(flags)
        if len(starts) > 1:
            return 0, "", False
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "recipe.yaml").write_text("epochs: 9")
        meanwhile()
        (tmp_path / "run").rename(tmp_path / "aside")
        return -signal.SIGKILL, "process 0", False

    monkeypatch.setattr(supervise, "_run_group", run_group)
    return starts


def test_a_supervised_group_that_is_lost_while_its_folder_is_away_continues(tmp_path, waits, group, capsys):
    """It does not begin a second run."""
    waits.then = lambda: len(waits) == 2 and (tmp_path / "aside").rename(tmp_path / "run")
    flags = ["--config", "small.yaml", "--output", str(tmp_path / "run")]
    assert main(["train", *flags, "--supervise", "2"]) == 0
    assert group == [flags, ["--resume", "--output", str(tmp_path / "run")]]
    assert waits == [1, 2]
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "trying again" in line]
    assert f"{tmp_path}/run/recipe.yaml" in line


def test_a_supervised_group_whose_folder_stays_away_ends_with_a_line(tmp_path, waits, group, capsys):
    assert main(["train", "--config", "small.yaml", "--output", str(tmp_path / "run"), "--supervise", "2"]) == 2
    assert (len(group), sum(waits)) == (1, 60)
    *_, line = capsys.readouterr().err.splitlines()
    assert line == f"tfvt train: error: {tmp_path}/run/recipe.yaml: No such file or directory"


@pytest.mark.parametrize("number", [errno.ESTALE, errno.ENOTDIR])
def test_a_supervised_group_does_not_begin_in_a_folder_that_is_away(number, tmp_path, group, fails, monkeypatch):
    stat = Path.stat

    def away(path, **settings):
        if path.name == "recipe.yaml":
            raise OSError(number, os.strerror(number), str(path))
        return stat(path, **settings)

    monkeypatch.setattr(Path, "stat", away)
    line = fails("train", "--config", "small.yaml", "--output", tmp_path / "run", "--supervise", "2")
    assert line.endswith(f"{tmp_path}/run/recipe.yaml: {os.strerror(number)}")
    assert group == []


def test_tensorboard_is_written_when_its_folder_is_back(tmp_path, waits):
    folder = tmp_path / "tensorboard"
    board = TensorBoard(folder)
    stale = board.writer

    def flush():
        raise tf.errors.UnknownError(None, None, f"Failed to flush 1 events to {folder}/x; Stale file handle")

    stale.flush = flush
    patiently(functools.partial(board.write, {"step": 3, "train_loss": 0.5}))
    board.close()
    assert waits == [1]
    assert board.writer is not stale
    events = [event for path in folder.iterdir() for event in tf.compat.v1.train.summary_iterator(str(path))]
    assert {(event.step, value.tag) for event in events for value in event.summary.value} == {(3, "train/loss")}
