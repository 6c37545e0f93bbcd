"""TensorFlow's client of `gs://` against a server that answers as Google's: processes that are killed, and refusals."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from fake_gcs import GCS
from PIL import Image
from safetensors.numpy import load
from test_runs_in_stores import HERE, train

from tfvt.trainers.cli import main
from tfvt.trainers.run.checkpoint import list_checkpoints

MAIN = "import sys; from tfvt_cli import main; sys.exit(main())"
pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates come from openssl")


@pytest.fixture(scope="module")
def gcs(tmp_path_factory):
    server = GCS(tmp_path_factory.mktemp("certificates"))
    yield server
    server.close()


@pytest.fixture
def tfvt(gcs):
    """Run `tfvt ARGUMENTS` in a process of its own, killed when it uploads the object named; what it was and said."""

    def run(*arguments, killed_at=None):
        command = [sys.executable, "-c", MAIN, *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=os.environ | gcs.environment, **pipes) as process:

            def kill(name):
                if name == killed_at:
                    process.kill()
                    raise ConnectionError  # the end of the file has not arrived

            gcs.uploading = kill
            said = process.communicate(timeout=1200)
        assert process.returncode == -signal.SIGKILL or killed_at is None
        return process.returncode, *said

    return run


def images(folder):
    """Four images of two classes in each split."""
    for split in ("train", "validation"):
        for label in ("cat", "dog"):
            (folder / split / label).mkdir(parents=True)
            for number in range(4):
                picture = Image.new("RGB", (30, 20), (number, 30 * len(split), 60 * len(label)))
                picture.save(folder / split / label / f"{number}.png")
    return folder


def test_a_conversion_killed_while_it_uploads_continues(gcs, tfvt, tmp_path):
    """One worker takes the shards in order."""
    convert = ("records", "convert", images(tmp_path / "images"))
    flags = ("--shards", "4", "--workers", "1")
    assert main([*map(str, convert), str(tmp_path / "records"), *flags]) == 0
    expected = {f"set/{path.name}": path.read_bytes() for path in (tmp_path / "records").iterdir()}
    status, *_ = tfvt(*convert, "gs://records/set", *flags, killed_at="set/train-00002-of-00004")
    assert status == -signal.SIGKILL
    shards = ["set/train-00000-of-00004", "set/train-00001-of-00004"]
    assert [name for name in gcs.names("records") if "/.partial/" not in name] == shards
    gcs.requests.clear()
    status, _, errors = tfvt(*convert, "gs://records/set", *flags)
    assert (status, errors.count("gs://records/set cannot be locked (object stores have no locks)")) == (0, 1), errors
    assert {name: gcs.objects["records", name] for name in gcs.names("records")} == expected
    assert not any("/.partial" in name for _, name in gcs.objects)
    assert not any("uploadType" in path and "train-00000-of" in path for _, path, _ in gcs.requests)  # it was whole
    assert {part for *_, part in gcs.requests if part} == {f"bytes=0-{2**23 - 1}"}  # not 64 MiB


def test_what_the_store_refuses_is_one_line(tfvt, tmp_path):
    status, said, errors = tfvt("records", "inspect", "gs://closed/set")
    assert (status, said) == (2, "")
    assert errors.startswith("tfvt records inspect: error: gs://closed/set")
    assert "403" in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.slow
def test_a_training_killed_while_it_uploads_ends_bit_equal(gcs, tfvt, config, records, tmp_path):
    keras.utils.set_random_seed(0)
    assert train("--config", config, *HERE, "--output", tmp_path / "run") == 0
    for path in records.iterdir():
        gcs.objects["data", f"small/{path.name}"] = path.read_bytes()
    flags = ("--config", config, *HERE, "--data.records", "gs://data/small", "--output", "gs://runs/first")
    status, *_ = tfvt("train", *flags, killed_at="first/checkpoints/step-000000008.safetensors")
    assert status == -signal.SIGKILL
    checkpoints = [name for name in gcs.names("runs") if "checkpoints" in name]
    assert checkpoints == [f"first/checkpoints/step-{step:09d}.safetensors" for step in (4, 6)]
    status, said, errors = tfvt("train", "--resume", "--output", "gs://runs/first")
    assert status == 0, errors
    assert "Resuming from gs://runs/first/checkpoints/step-000000006.safetensors: step 6 of 12" in said
    ended = load(gcs.objects["runs", "first/checkpoints/step-000000012.safetensors"])
    expected = load(list_checkpoints(tmp_path / "run" / "checkpoints")[-1].read_bytes())
    assert [ended[name].tobytes() for name in sorted(ended)] == [expected[name].tobytes() for name in sorted(expected)]
    status, said, errors = tfvt("evaluate", "gs://runs/first")
    assert (status, "on 20 images of validation in gs://data/small" in said) == (0, True), errors


@pytest.mark.distributed
def test_a_group_whose_chief_is_killed_while_it_uploads_starts_again(gcs, config, records):
    for path in records.iterdir():
        gcs.objects["data", f"small/{path.name}"] = path.read_bytes()
    gcs.objects["data", "small.yaml"] = config.read_bytes()
    flags = ["--config=gs://data/small.yaml", "--epochs=2", "--data.records=gs://data/small"]
    command = [sys.executable, "-c", MAIN, "train", *flags, "--supervise=2", "--output=gs://runs/group"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    killed = []
    with subprocess.Popen(command, env=os.environ | gcs.environment, **pipes) as group:

        def kill_chief(name):
            if name == "group/checkpoints/step-000000008.safetensors" and not killed:
                children = Path(f"/proc/{group.pid}/task/{group.pid}/children").read_text().split()
                killed.extend(pid for pid in children if b"--worker=0" in Path(f"/proc/{pid}/cmdline").read_bytes())
                os.kill(int(killed[0]), signal.SIGKILL)
                raise ConnectionError  # the end of the file has not arrived

        gcs.uploading = kill_chief
        said, errors = group.communicate(timeout=1800)
    assert group.returncode == 0, errors
    assert "starts again from gs://runs/group/checkpoints/step-000000006.safetensors" in said
    checkpoints = [name.rpartition("/")[2] for name in gcs.names("runs") if name.startswith("group/checkpoints/")]
    assert checkpoints == ["step-000000008.safetensors", "step-000000012.safetensors"]
    assert len(gcs.objects["runs", "group/metrics.csv"].splitlines()) == 3
