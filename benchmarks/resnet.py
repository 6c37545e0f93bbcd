"""ResNet and VT-ResNet beside each other and other code, forms of batch norm and of grouped 1x1 convolutions.

python -m benchmarks.resnet [grouped] [norms] [networks] [peers] [cpu]    (without a table's name, all of them)

`cpu` counts the processor's time of all threads, which other jobs hardly change, and is blind to idle cores.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import functools
import importlib.util
import sys
import time

import keras
import numpy as np
import tensorflow as tf

import tfvt
from benchmarks.timing import alternate, median_ms, median_ratio
from benchmarks.vit import torch_calls

BATCH = 8
IMAGES = np.random.default_rng(0).integers(0, 256, (BATCH, 224, 224, 3)).astype("float32")
LABELS = np.arange(BATCH)
CLOCK = time.process_time if "cpu" in sys.argv[1:] else time.perf_counter
KINDS = ("forward", "forward and backward")


def inference_and_training(call, variables, inputs):
    """Two graph functions of one forward function: forward, and forward with all gradients."""

    @tf.function(autograph=False)
    def train():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(call(inputs)))
        return tape.gradient(loss, variables)

    forward = tf.function(lambda: call(inputs), autograph=False)
    return forward, train


def grouped_convolutions():
    """`GroupedDense` on a map, a dense 1x1 of the same MACs, and Keras' own grouped convolution."""
    print(f"Grouped 1x1 convolution of a 14x14 map, batch {BATCH}, milliseconds (median), and times ours")
    print("channels  groups  form                               forward         forward + backward")
    for channels in (256, 512, 1024):
        groups = channels // 64
        x = tf.random.stateless_normal((BATCH, 14, 14, channels), seed=(0, 1))
        narrow = tf.random.stateless_normal((BATCH, 14, 14, 64), seed=(0, 2))
        layers = {
            "GroupedDense": (tfvt.layers.GroupedDense(channels, groups), x),
            "dense 1x1 of the same MACs": (keras.layers.Conv2D(channels, 1, use_bias=False), narrow),
            "keras.layers.Conv2D(groups=...)": (keras.layers.Conv2D(channels, 1, groups=groups, use_bias=False), x),
        }
        forms = {}
        for name, (layer, inputs) in layers.items():
            layer(inputs)
            forms[name] = inference_and_training(layer, [v.value for v in layer.trainable_variables], inputs)
        timed = [alternate({name: form[kind] for name, form in forms.items()}, clock=CLOCK) for kind in (0, 1)]
        for name in layers:
            cells = []
            for kind, t in zip(KINDS, timed, strict=True):
                ratio = median_ratio(t, name, "GroupedDense", f"grouped 1x1, {channels} channels, {kind}")
                cells.append(f"{median_ms(t[name]):7.2f} {ratio:7.2f}x")
            print(f"{channels:8}  {groups:6}  {name:33}  {'  '.join(cells)}")


def keras_norms(build):
    """What `build` gives with every batch norm in Keras' own form."""
    fused = tfvt.layers.BatchNormalization._can_fuse
    tfvt.layers.BatchNormalization._can_fuse = lambda *_: False
    try:
        calls = build()
        for call in calls:
            call()  # TensorFlow traces it in its first call
    finally:
        tfvt.layers.BatchNormalization._can_fuse = fused
    return calls


def network(name, **options):
    return network_calls(tfvt.create_model(name, **options))


def network_calls(model):
    """(inference, training) of a model on pixels."""
    inputs, variables = tf.constant(IMAGES), [v.value for v in model.trainable_variables]
    forward, _ = inference_and_training(lambda x: model(x, training=False), [], inputs)
    _, train = inference_and_training(lambda x: model(x, training=True), variables, inputs)
    return forward, train


def print_table(title, calls, base, last=None):
    """Images/s of each, and how many times as fast as `base` it is; `last` is one more column."""
    print(f"\n{title}, 224x224, batch {BATCH}: images/s (median), and how many times as fast as {base}")
    print(f"{'':32}{'inference':>16}{'training':>17}")
    timed = [alternate({name: form[kind] for name, form in calls.items()}, 7, CLOCK) for kind in (0, 1)]
    for name in calls:
        cells = []
        for kind, t in zip(("inference", "training"), timed, strict=True):
            ratio = median_ratio(t, base, name, f"{title}, {kind}")
            cells.append(f"{BATCH / median_ms(t[name]) * 1000:8.1f} {ratio:6.3f}x")
        print(f"{name:32}{'  '.join(cells)}  {last(name) if last else ''}", flush=True)


def norms():
    """The fused batch norm beside Keras' form of it."""
    for name in ("resnet50", "vt_resnet50"):
        calls = {"Keras' norms": keras_norms(functools.partial(network, name)), "fused norms": network(name)}
        print_table(f"Batch norms of {name}", calls, "Keras' norms")


def networks():
    """Inference and training of a VT-ResNet beside the ResNet whose last stage it replaces."""
    for depth in (18, 34, 50):
        names = [f"{family}{depth}" for family in ("resnet", "vt_resnet")]
        macs = {name: tfvt.profile(name).macs for name in names}
        by_macs = "by MACs {:.2f}x".format
        print_table(
            f"VT-ResNet-{depth} beside ResNet-{depth}",
            {name: network(name) for name in names},
            names[0],
            lambda name, macs=macs, names=names, text=by_macs: text(macs[names[0]] / macs[name]),
        )


def peers():
    """ResNet-50 of other code beside ours."""
    theirs = network_calls(keras.applications.ResNet50(weights=None, classifier_activation=None))
    ours = network("resnet50", stride_in_1x1=True)  # where keras.applications has it: fewer MACs
    calls = {"keras.applications": theirs, "resnet50, stride_in_1x1": ours}
    print_table("ResNet-50 with strides in the 1x1 convolutions", calls, "keras.applications")
    if importlib.util.find_spec("transformers") and importlib.util.find_spec("torch"):
        from transformers import ResNetConfig, ResNetForImageClassification

        transformers = torch_calls(ResNetForImageClassification(ResNetConfig(num_labels=1000)))
        calls = {"transformers on PyTorch": transformers, "resnet50": network("resnet50")}
        print_table("ResNet-50", calls, "transformers on PyTorch")


TABLES = {"grouped": grouped_convolutions, "norms": norms, "networks": networks, "peers": peers}

if __name__ == "__main__":
    for table in [name for name in sys.argv[1:] if name != "cpu"] or TABLES:
        TABLES[table]()
