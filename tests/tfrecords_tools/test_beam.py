"""The conversion as a Beam pipeline: run by two worker processes, equal to the conversion on one machine."""

import os
import random
import subprocess
import sys

import pytest
from image_files import contents, write_folder

from tfvt.errors import UsageError
from tfvt.tfrecords_tools.cli import main
from tfvt.tfrecords_tools.convert import convert

# What DirectRunner uses too, after it has tried to download another runner; tests use no network.
TWO_PROCESSES = ["--runner=FnApiRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2"]


def test_without_beam_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.delitem(sys.modules, "tfvt.tfrecords_tools.beam", raising=False)
    source = write_folder(tmp_path / "images")
    convert(source, tmp_path / "records")
    before = contents(tmp_path / "records")
    with pytest.raises(UsageError, match=r"Beam is not installed .*pip install 'tfvt\[beam\]'"):
        convert(source, tmp_path / "records", shards=2, overwrite=True, beam=["--runner=DirectRunner"])
    assert contents(tmp_path / "records") == before


@pytest.mark.parity
def test_two_worker_processes_write_the_same_files(tmp_path):
    source = write_folder(tmp_path / "images", counts=(20, 10))
    (source / "train" / "class0" / "3.jpg").write_text("no image")
    os.rename(source / "val" / "class1" / "4.jpg", os.fsencode(source / "val" / "class1") + b"/\xff.jpg")
    arguments = ["convert", str(source), "--shards", "5", "--max-rejects", "1", "--label-offset", "1"]
    assert main([*arguments, str(tmp_path / "local")]) == 0
    command = [
        sys.executable,
        "-c",
        "import sys; from tfvt.tfrecords_tools.cli import main; sys.exit(main(sys.argv[1:]))",
    ]
    ended = subprocess.run(
        [*command, *arguments, str(tmp_path / "beam"), "--beam", *TWO_PROCESSES],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "train: 29 images in 5 shards" in ended.stdout
    assert contents(tmp_path / "beam") == contents(tmp_path / "local")
    assert sorted(path.name for path in (tmp_path / "beam").iterdir()) == sorted(contents(tmp_path / "local"))


@pytest.mark.parity
def test_workers_of_a_dask_cluster_write_the_same_files(tmp_path):
    distributed = pytest.importorskip("dask.distributed")  # of make test-parity
    source = write_folder(tmp_path / "images", counts=(20, 10))
    convert(source, tmp_path / "local", shards=5)
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        address = f"--dask_client_address={cluster.scheduler_address}"
        options = ["--runner=apache_beam.runners.dask.dask_runner.DaskRunner", address, "--dask_partition_size=1"]
        convert(source, tmp_path / "dask", shards=5, beam=options)
        tasks = client.run(lambda dask_worker: dask_worker.state.executed_count)
    assert contents(tmp_path / "dask") == contents(tmp_path / "local")
    assert len(tasks) == 2
    assert min(tasks.values()) > 0


@pytest.mark.parity
def test_a_pipeline_writes_the_same_files_into_a_store(tmp_path, store):
    """In this process, whose memory the store is."""
    source = write_folder(tmp_path / "images", counts=(20, 10))
    convert(source, tmp_path / "local", shards=5)
    convert(source, store / "beam", shards=5, beam=["--runner=FnApiRunner"])
    assert {path.name: path.read_bytes() for path in (store / "beam").iterdir()} == contents(tmp_path / "local")


@pytest.mark.parity
def test_beam_and_this_machine_finish_each_others_work(tmp_path, monkeypatch):
    from tfvt.tfrecords_tools import beam

    source = write_folder(tmp_path / "images", counts=(20, 10))
    convert(source, tmp_path / "local", shards=5)
    written, kept = [], set(random.Random(0).sample(range(10), 4))

    def fail_at_some(line, **arguments):
        written.append(line)
        if len(written) - 1 not in kept:
            raise MemoryError("a worker was lost")
        write_line(line, **arguments)

    write_line = beam.write_line
    with monkeypatch.context() as patch:
        patch.setattr(beam, "write_line", fail_at_some)
        with pytest.raises(UsageError, match=r"(?s)the Beam pipeline failed: .*a worker was lost"):
            convert(source, tmp_path / "records", shards=5, beam=["--runner=FnApiRunner"])
    assert not (tmp_path / "records" / "manifest.json").exists()
    convert(source, tmp_path / "records", shards=5, beam=["--runner=FnApiRunner"])
    assert contents(tmp_path / "records") == contents(tmp_path / "local")


@pytest.mark.parity
def test_shards_that_do_not_come_are_an_error(tmp_path, monkeypatch):
    from tfvt.tfrecords_tools import beam

    monkeypatch.setattr(beam, "write_line", lambda *_, **__: None)
    with pytest.raises(UsageError, match=r"ended \(DONE\), and train-00000-of-00001, val.* are not in .*records: all"):
        convert(write_folder(tmp_path / "images"), tmp_path / "records", beam=["--runner=FnApiRunner"])
