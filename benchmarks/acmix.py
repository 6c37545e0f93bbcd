"""Local attention and the convolution path of ACmix beside other forms of them, and ACmix models beside plain ones.

python -m benchmarks.acmix [local | blocks | grouped | shifts | parts | networks ...]
"""

import functools
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import tfvt
from benchmarks.resnet import KINDS, inference_and_training
from benchmarks.timing import alternate, median_ms, median_ratio, record
from tests.layers.test_local_attention import unfolded_attention
from tfvt.layers import ACmix, ConvolutionPath
from tfvt.layers.convolution import grouped_conv2d, strided_window
from tfvt.layers.local_attention import indexed_attention, local_attention, reflect

BATCH, SIDE, CHANNELS, HEADS, WINDOW = 4, 56, 64, 4, 7
BESIDE = {
    "acmix_resnet50": "resnet50",
    "acmix_pvt_tiny": "pvt_tiny",
    "acmix_swin_tiny": "swin_tiny",
    "san10": "resnet50",
}
FORMS = {"tiles with a halo": local_attention, "unfolded windows": unfolded_attention}


def draw(*shape, seed=0):
    return tf.random.stateless_normal(shape, seed=(0, seed))


def attention_step(form):
    """Forward, and forward with gradients of the queries, keys and values."""
    padded = SIDE + WINDOW - 1
    maps = [draw(BATCH, SIDE, SIDE, CHANNELS), *(draw(BATCH, padded, padded, CHANNELS, seed=i) for i in (1, 2))]
    maps = [tf.Variable(x) for x in maps]
    return inference_and_training(lambda _: form(*(x.value() for x in maps), HEADS, WINDOW), maps, None)


def print_times(table, forms, ours, rounds=7, clock=time.perf_counter):
    timed = [alternate({name: form[kind] for name, form in forms.items()}, rounds, clock) for kind in (0, 1)]
    for name in forms:
        cells = []
        for kind, t in zip(KINDS, timed, strict=True):
            cells.append(f"{median_ms(t[name]):8.1f} {median_ratio(t, name, ours, f'{table}, {kind}'):6.2f}x")
        print(f"{name:40}  {'  '.join(cells)}", flush=True)


def local_attention_forms():
    print(
        f"Local attention {WINDOW}x{WINDOW}, map {SIDE}x{SIDE}x{CHANNELS}, {HEADS} heads, batch {BATCH}: ms, times ours"
    )
    print(f"{'form':40}  {'forward':>16}  {'forward + backward':>16}")
    print_times("local attention", {name: attention_step(form) for name, form in FORMS.items()}, "tiles with a halo")
    peaks = {}
    for name in FORMS:  # a process each: memory that one form has used is not returned
        command = [sys.executable, "-m", "benchmarks.acmix", "--peak", name]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        peaks[name] = float(output)
    for name, peak in peaks.items():
        record("local attention", f"peak of forward and backward, {name}", [peak], "MiB")
        print(f"{name:40}  peak of forward + backward {peak:7.0f} MB  {peak / peaks['tiles with a halo']:.2f}x")


def blocks_of_keys():
    """The two forms of local attention that the library has, on maps of ResNet-50's stages, by processor time."""
    print(f"\nLocal attention {WINDOW}x{WINDOW} of whole maps, batch {BATCH}: processor ms, times blocks by an index")
    for side, channels in ((56, 64), (28, 128), (14, 256), (7, 512)):
        maps = [tf.Variable(draw(BATCH, side, side, channels, seed=i)) for i in range(3)]

        def tiles(_, maps=maps):
            query, *padded = (x.value() for x in maps)
            return local_attention(query, *(reflect(x, WINDOW) for x in padded), HEADS, WINDOW)

        def by_index(_, maps=maps):
            return indexed_attention(*(x.value() for x in maps), HEADS, WINDOW)

        forms = {"tiles with a halo": tiles, "blocks by an index": by_index}
        forms = {f"{side}x{side}x{channels} {n}": inference_and_training(f, maps, None) for n, f in forms.items()}
        print_times("blocks of keys", forms, f"{side}x{side}x{channels} blocks by an index", clock=time.process_time)


def peak_of(name):
    """Megabytes by which five steps of one form raise this process' memory, sampled every millisecond (Linux)."""
    step = attention_step(FORMS[name])[1].get_concrete_function()
    before, samples, stop = resident_megabytes(), [], threading.Event()

    def sample():
        while not stop.wait(0.001):
            samples.append(resident_megabytes())

    thread = threading.Thread(target=sample)
    thread.start()
    for _ in range(5):
        step()
    stop.set()
    thread.join()
    print(max(samples) - before)


def resident_megabytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def grouped_convolution_forms():
    """The convolution path's convolution: 16 groups of 9 channels to 4."""
    groups = CHANNELS // HEADS
    x, kernel = tf.Variable(draw(BATCH, SIDE, SIDE, 9 * groups)), tf.Variable(draw(3, 3, 9, CHANNELS, seed=1))
    forms = {
        "tfvt grouped_conv2d": lambda _: grouped_conv2d(x.value(), kernel.value()),
        "tf.nn.conv2d": lambda _: tf.nn.conv2d(x, kernel, 1, "VALID"),
    }
    print("\nGrouped 3x3 convolution of the convolution path: ms, times ours")
    steps = {name: inference_and_training(form, [x, kernel], None) for name, form in forms.items()}
    print_times("convolution path", steps, "tfvt grouped_conv2d")


def shift_every_channel(path, maps):
    """The paper's tensor shifts as its Figure 3a draws them: the k^2 maps of every output channel, shifted and summed.

    `ConvolutionPath` sums first and repeats the sum for the output channels: the same function, less work.
    """
    batch, height, width, _ = maps.shape
    size = path.kernel_size
    maps = tf.reshape(maps, (batch, height, width, path.piece_dim, size**2))
    maps = tf.unstack(tf.repeat(maps, path.filters // path.piece_dim, axis=3), axis=-1)
    border = [[0, 0], [size // 2, size // 2], [size // 2, size // 2], [0, 0]]
    return sum(strided_window(tf.pad(m, border), p // size, p % size, size, path.strides) for p, m in enumerate(maps))


def shift_modules():
    """The comparison of Table 7 on whole models."""
    images = tf.constant(np.random.default_rng(0).integers(0, 256, (BATCH, 224, 224, 3)).astype("float32"))
    every_channel = "tensor shifts of every output channel"
    shifts = {
        "group convolution": "learned",
        "tensor shifts, summed before repeated": "tensor",
        every_channel: "tensor",
    }
    forms, outputs = {}, {}
    for name, shift in shifts.items():
        keras.utils.set_random_seed(0)
        model = tfvt.create_model("acmix_swin_tiny", shift=shift)
        if name == every_channel:
            for path in (layer for layer in model._flatten_layers() if isinstance(layer, ConvolutionPath)):
                path._shift_and_sum = functools.partial(shift_every_channel, path)
        forms[name] = inference_and_training(lambda x, m=model: m(x, training=False), [], images)[0]
        outputs[name] = forms[name]().numpy()
    for output in outputs.values():  # the three are one function at the start
        np.testing.assert_allclose(output, outputs[every_channel], atol=1e-3)
    times = alternate(forms, rounds=21)
    print(
        f"\nACmix-Swin-T inference, 224x224, batch {BATCH}: images/s, how many times as fast the group convolution is"
    )
    for name in forms:
        ratio = median_ratio(times, name, "group convolution", "ACmix-Swin-T, inference")
        print(f"{name:40}  {BATCH / median_ms(times[name]) * 1000:7.2f} {ratio:6.2f}x", flush=True)
    print("the paper, on a GPU: 419 / 313 = 1.34x")


def parts_of_resnet50():
    """How ACmix spends its time, at the sizes of ResNet-50's four stages."""
    print(f"\nACmix in ResNet-50's stages, batch {BATCH}: ms forward, ms forward + backward")
    for side, channels in ((56, 64), (28, 128), (14, 256), (7, 512)):
        layers = {
            "dense 3x3": keras.layers.Conv2D(channels, 3, padding="same", use_bias=False),
            "ACmix": ACmix(channels),
            "its attention path": ACmix(channels, combine="attention"),
            "its convolution path": ACmix(channels, combine="convolution"),
            "its three projections": keras.layers.Dense(3 * channels),
        }
        forms = {}
        for name, layer in layers.items():
            x = tf.Variable(draw(BATCH, side, side, channels))
            layer(x)
            variables = [x, *(v.value for v in layer.trainable_variables)]
            forms[name] = inference_and_training(lambda _, layer=layer, x=x: layer(x.value()), variables, None)
        timed = [alternate({name: form[kind] for name, form in forms.items()}, rounds=9) for kind in (0, 1)]
        for name in forms:
            cells = []
            for kind, t in zip(KINDS, timed, strict=True):
                ratio = median_ratio(t, name, "dense 3x3", f"ACmix, {side}x{side}x{channels}, {kind}")
                cells.append(f"{median_ms(t[name]):8.1f} {ratio:6.2f}x")
            print(f"{side:3}x{side}x{channels:<4} {name:30}  {'  '.join(cells)}", flush=True)


def networks():
    """Models beside plain ones by processor time, and the ratio that MACs alone would give."""
    images = tf.constant(np.random.default_rng(0).integers(0, 256, (BATCH, 224, 224, 3)).astype("float32"))
    print(f"\n224x224, batch {BATCH}, processor time: how many times as fast, inference, training, by MACs")
    for name, plain in BESIDE.items():
        pair = {n: tfvt.create_model(n) for n in (plain, name)}
        steps = {}
        for n, m in pair.items():
            variables = [v.value for v in m.trainable_variables]
            forward, _ = inference_and_training(lambda x, m=m: m(x, training=False), [], images)
            _, train = inference_and_training(lambda x, m=m: m(x, training=True), variables, images)
            steps[n] = (forward, train)
        ratios = []
        for kind in (0, 1):
            times = alternate({n: step[kind] for n, step in steps.items()}, 5, time.process_time)
            ratios.append(median_ratio(times, plain, name, KINDS[kind]))
        macs = [tfvt.profile(pair[n]).macs for n in (plain, name)]
        print(
            f"{name:16} beside {plain:10}  {ratios[0]:5.2f}x  {ratios[1]:5.2f}x  {macs[0] / macs[1]:5.2f}x", flush=True
        )


TABLES = {
    "local": local_attention_forms,
    "blocks": blocks_of_keys,
    "grouped": grouped_convolution_forms,
    "shifts": shift_modules,
    "parts": parts_of_resnet50,
    "networks": networks,
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        peak_of(sys.argv[2])
    else:
        for table in sys.argv[1:] or TABLES:
            TABLES[table]()
