"""VT-FPN beside FPN, and UPerNet beside transformers': processor time, and memory of the necks.

python -m benchmarks.segmentation [necks] [models] [upernet] [memory]    (all of them without arguments)

The ratios are of processor time, system time included, of one thread: other jobs on the machine hardly change it, and
it does not see how well the work is shared between cores. Training is the forward pass, the cross entropy of the
pixels and the gradients of all weights, without the optimizer; of a neck alone it is the forward pass, and the
gradients of the weights and of the backbone's maps from given gradients of the neck's.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import functools
import multiprocessing
import sys
import time
import warnings

import keras
import numpy as np
import tensorflow as tf

import tfvt
from benchmarks.timing import alternate, median_ms, median_ratio, record

KINDS = ("inference", "training")
PYRAMIDS = ("fpn_resnet50", "vt_fpn_resnet50")
LEVELS = ("P2", "P3", "P4", "P5")
SWIN_TINY = (2, 2, 6, 2)  # blocks of each stage
LOSS_SHARES = {"logits": 1.0, "auxiliary": 0.4}


def draw(shape, seed):
    return tf.random.stateless_normal(shape, seed=(0, seed))


def neck_call(name, side, options, kind, batch):
    """The neck of a model, on given maps of its backbone."""
    whole = tfvt.create_model(name, input_shape=(side, side, 3), features=LEVELS, **options)
    read = [whole.get_layer(f"neck_{level.lower()}_lateral").input for level in LEVELS]
    model = keras.Model(read, whole.output)
    maps = [draw((batch, *x.shape[1:]), seed=1) for x in read]
    if kind == "inference":
        return tf.function(lambda: model(maps, training=False), autograph=False)
    given = {level: draw((batch, *x.shape[1:]), seed=2) for level, x in whole.output.items()}
    variables = [variable.value for variable in model.trainable_variables]

    @tf.function(autograph=False)
    def train(maps):
        with tf.GradientTape() as tape:
            tape.watch(maps)
            outputs = model(maps, training=True)
        return tape.gradient(outputs, [variables, maps], output_gradients=given)

    return lambda: train(maps)


def pixels_and_labels(side, classes, batch):
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (batch, side, side, 3)).astype("float32")
    return images, rng.integers(0, classes, (batch, side, side))


def model_call(name, side, options, kind, batch):
    """A whole model, with all that it returns in the loss."""
    model = tfvt.create_model(name, input_shape=(side, side, 3), **options)
    images, labels = map(tf.constant, pixels_and_labels(side, options["num_classes"], batch))
    if kind == "inference":
        return tf.function(lambda: model(images, training=False), autograph=False)
    variables = [variable.value for variable in model.trainable_variables]
    cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits

    @tf.function(autograph=False)
    def train():
        with tf.GradientTape() as tape:
            outputs = model(images, training=True)
            heads = outputs if isinstance(outputs, dict) else {"logits": outputs}
            losses = [LOSS_SHARES[head] * tf.reduce_mean(cross_entropy(labels, x)) for head, x in heads.items()]
            loss = tf.add_n(losses)
        return tape.gradient(loss, variables)

    return train


def upernet_call(side, depths, kind, batch):
    """Ours, with the auxiliary head in training alone."""
    options = {"num_classes": 150, "auxiliary": kind == "training", "dropout_rate": 0.0}
    return model_call("upernet_swin_tiny", side, options | {"backbone_options": {"depths": depths}}, kind, batch)


def transformers_call(side, depths, kind, batch):
    """The same network by transformers, with nothing random in training, as ours."""
    import torch
    from transformers import SwinConfig, UperNetConfig, UperNetForSemanticSegmentation

    torch.set_num_threads(1)
    training = kind == "training"
    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone = SwinConfig(depths=list(depths), out_features=stages, drop_path_rate=0.0)
    config = UperNetConfig(backbone_config=backbone, num_labels=150, use_auxiliary_head=training)
    model = UperNetForSemanticSegmentation(config).train(training)
    images, labels = map(torch.tensor, pixels_and_labels(side, 150, batch))
    images = images.permute(0, 3, 1, 2).contiguous() / 127.5 - 1

    def infer():
        with torch.inference_mode():
            return model(images).logits

    def train():
        model.zero_grad()
        model(images, labels=labels).loss.backward()

    return train if training else infer


def processor_and_wall():
    return np.array((time.process_time(), time.perf_counter()))


def compare(table, makers, batch, rounds, by_macs):
    """Print a row for each kind: milliseconds an image of both, and how many times as fast the second is."""
    slow, fast = makers
    print(f"| batch {batch} | `{slow}`, ms an image | `{fast}`, ms an image | times as fast | by MACs | wall clock |")
    print("|---|---|---|---|---|---|")
    for kind in KINDS:
        calls = {name: make(kind, batch) for name, make in makers.items()}
        both = alternate(calls, rounds, processor_and_wall)
        processor, wall = ({name: [s[clock] for s in seconds] for name, seconds in both.items()} for clock in (0, 1))
        cells = [f"{median_ms(processor[name]) / batch:.1f}" for name in makers]
        clocks = {f"{table}, {kind}, processor": processor, f"{table}, {kind}, wall clock": wall}
        ratios = [median_ratio(seconds, slow, fast, figure) for figure, seconds in clocks.items()]
        print(f"| {kind} | {' | '.join(cells)} | {ratios[0]:.2f}x | {by_macs:.2f}x | {ratios[1]:.2f}x |", flush=True)


def compare_pyramids(make, part, side, batch, rounds, options):
    """VT-FPN beside FPN; by MACs of the layers whose names begin with `part`."""
    profiles = [tfvt.profile(tfvt.create_model(name, input_shape=(side, side, 3), **options)) for name in PYRAMIDS]
    macs = [sum(row.macs for row in profile.rows if row.path.startswith(part)) for profile in profiles]
    makers = {name: functools.partial(make, name, side, options) for name in PYRAMIDS}
    compare(part or "whole model", makers, batch, rounds, macs[0] / macs[1])


def necks(side=473, batch=4, rounds=9, **options):
    """The necks alone, without a backbone."""
    print(f"\nNeck of VT-FPN beside that of FPN, {side}x{side}\n")
    compare_pyramids(neck_call, "neck", side, batch, rounds, options)


def models(side=473, batch=2, rounds=5, **options):
    """The whole models over ResNet-50."""
    print(f"\nVT-FPN beside FPN, whole models, {side}x{side}\n")
    compare_pyramids(model_call, "", side, batch, rounds, {"num_classes": 20} | options)


def upernet(side=512, batch=2, rounds=3, depths=SWIN_TINY):
    """UPerNet over Swin-T; in training, the batch norm of the smallest pool takes no single image."""
    print(f"\nUPerNet over Swin-T beside transformers' on PyTorch, {side}x{side}\n")
    makers = {
        "transformers": functools.partial(transformers_call, side, depths),
        "upernet_swin_tiny": functools.partial(upernet_call, side, depths),
    }
    compare("UPerNet", makers, batch, rounds, 1.0)


def peak_memory(name, kind, side, batch, options):
    """MiB that two calls of a neck add to a process with its model, which is of its own."""
    from tfvt.trainers.engines.memory import resident_peak

    call = neck_call(name, side, options, kind, batch)
    before = resident_peak()
    for _ in range(2):
        call()
    return resident_peak() - before


def memory(side=473, batch=4, **options):
    """The necks alone; a process for each figure."""
    print(f"\nPeak memory of the necks, {side}x{side}, batch {batch}, MiB\n\n| | {' | '.join(KINDS)} |\n|---|---|---|")
    context = multiprocessing.get_context("spawn")
    for name in PYRAMIDS:
        cells = []
        for kind in KINDS:
            with context.Pool(1) as pool:
                peak = pool.apply(peak_memory, (name, kind, side, batch, options))
            record(f"neck, {kind}", f"peak memory, {name}", [peak], "MiB")
            cells.append(f"{peak:.0f}")
        print(f"| `{name}` | {' | '.join(cells)} |", flush=True)


TABLES = {"necks": necks, "models": models, "upernet": upernet, "memory": memory}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    for table in sys.argv[1:] or TABLES:
        TABLES[table]()
