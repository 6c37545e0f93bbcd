"""Conversion to records beside a converter that decodes each image, and beside copying the files.

python -m benchmarks.convert [--folder FOLDER] [--images 20000] [--rounds 5]

Makes an ImageNet-shaped tree of JPEGs, 2 GB, in FOLDER or in a temporary folder, which is deleted at the end. The first
table is for one processor core, to which the process is bound, and for a part of the tree; the rest is for the whole
tree and all cores. FOLDER on /dev/shm shows the processor's share, without the disk.
"""

import argparse
import ctypes
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from benchmarks.imagenet_shaped import write_imagenet_shaped
from benchmarks.timing import alternate, median_ratio, record
from tfvt.tfrecords_tools import workers
from tfvt.tfrecords_tools.convert import convert

PART = 5000


def decode_and_convert(images, output):
    """What slim and `imagenet_to_gcs` do: every image is decoded in a session to learn its height and width."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        placeholder = tf.compat.v1.placeholder(tf.string)
        decoded = tf.io.decode_jpeg(placeholder, channels=3)
        with tf.io.TFRecordWriter(str(output / "train-00000-of-00001")) as writer:
            for path in images:
                with tf.io.gfile.GFile(path, "rb") as file:
                    data = file.read()
                height, width, channels = session.run(decoded, {placeholder: data}).shape
                synset = os.path.basename(os.path.dirname(path))
                writer.write(_example(data, height, width, channels, synset, os.path.basename(path)))


def _example(data, height, width, channels, synset, filename):
    def integers(value):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    def strings(value):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    features = {
        "image/height": integers(height),
        "image/width": integers(width),
        "image/colorspace": strings(b"RGB"),
        "image/channels": integers(channels),
        "image/class/label": integers(1),
        "image/class/synset": strings(synset.encode()),
        "image/format": strings(b"JPEG"),
        "image/filename": strings(filename.encode()),
        "image/encoded": strings(data),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def copy(images, output):
    """Copies every file into one folder, and flushes all of it to the disk."""
    for path in images:
        shutil.copyfile(path, output / os.path.basename(path))
    folder = os.open(output, os.O_RDONLY)
    ctypes.CDLL(None).syncfs(folder)
    os.close(folder)


def part_of(tree, folder, count) -> Path:
    """A tree of links to the first `count` images of every class in turn."""
    classes = sorted(entry for entry in (tree / "train").iterdir())
    each = [sorted(folder_.iterdir()) for folder_ in classes]
    images = [files[number] for number in range(len(each[0])) for files in each if number < len(files)][:count]
    for path in images:
        (folder / "train" / path.parent.name).mkdir(parents=True, exist_ok=True)
        os.link(path, folder / "train" / path.parent.name / path.name)
    return folder


def one_core(tree, scratch, rounds):
    """Times of the three on one core."""
    source = part_of(tree, scratch / "part", PART)
    images = [str(path) for path in sorted(source.rglob("*.JPEG"))]
    size = sum(os.path.getsize(path) for path in images)
    output = scratch / "output"

    def clear():
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir()

    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    ours = "tfvt records convert --workers 1"
    calls = {
        ours: lambda: convert(source, output, workers=1),
        "decode each image": lambda: decode_and_convert(images, output),
        "copy the files": lambda: copy(images, output),
    }
    timed = {}
    for name, call in calls.items():
        timed |= {f"clear before {name}": clear, name: call}
    seconds = alternate(timed, rounds)
    print(
        f"{len(images)} images, {size / 1e6:.0f} MB, one core, {rounds} rounds: medians; how many times as fast ours is"
    )
    for name in calls:
        middle = statistics.median(seconds[name])
        print(
            f"{name:34} {len(images) / middle:7.0f} images/s {size / middle / 1e6:6.0f} MB/s "
            f"{median_ratio(seconds, name, ours, 'one core'):6.2f}x"
        )


def all_cores(tree, scratch, cores):
    """Conversions of the whole tree by threads and by processes, which have to import TensorFlow."""
    os.sched_setaffinity(0, cores)
    for kind, least in (("threads", 10**9), ("processes", 0)):
        workers.IMAGES_WORTH_PROCESSES = least
        start = time.perf_counter()
        manifest = convert(tree, scratch / kind, workers=len(cores))
        seconds = time.perf_counter() - start
        record("all cores", f"conversion by {kind}", [seconds], "s")
        records = sum(shard.records for shard in manifest.splits["train"])
        print(f"{records} images, {len(cores)} {kind}: {seconds:.1f} s")
        shutil.rmtree(scratch / kind)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where the tree is, or where to make and keep it")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    cores = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory(dir=arguments.folder and arguments.folder.parent) as scratch:
        scratch = Path(scratch)
        tree = write_imagenet_shaped(arguments.folder or scratch / "tree", arguments.images)
        one_core(tree, scratch, arguments.rounds)
        all_cores(tree, scratch, cores)


if __name__ == "__main__":
    main()
