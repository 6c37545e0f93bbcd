"""VT-ResNet beside ResNet, and grouped 1x1 convolutions beside other forms of them, on TensorFlow.

python -m benchmarks.resnet
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import tfvt
from benchmarks.timing import alternate, median_ms, median_ratio

BATCH = 8


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
        timed = [alternate({name: form[kind] for name, form in forms.items()}) for kind in (0, 1)]
        for name in layers:
            cells = [f"{median_ms(t[name]):7.2f} {median_ratio(t, name, 'GroupedDense'):7.2f}x" for t in timed]
            print(f"{channels:8}  {groups:6}  {name:33}  {'  '.join(cells)}")


def networks():
    """Inference and training of a VT-ResNet beside the ResNet whose last stage it replaces."""
    print(f"\nVT-ResNet beside ResNet, 224x224, batch {BATCH}, images/s (median), and what MACs alone would give")
    print("                            inference        training        by MACs")
    inputs = tf.constant(np.random.default_rng(0).integers(0, 256, (BATCH, 224, 224, 3)).astype("float32"))
    for depth in (18, 34, 50):
        pair = {name: tfvt.create_model(f"{name}{depth}") for name in ("resnet", "vt_resnet")}
        forms = {}
        for name, model in pair.items():
            variables = [v.value for v in model.trainable_variables]
            forward, _ = inference_and_training(lambda x, m=model: m(x, training=False), [], inputs)
            _, train = inference_and_training(lambda x, m=model: m(x, training=True), variables, inputs)
            forms[name] = (forward, train)
        timed = [alternate({name: form[kind] for name, form in forms.items()}, rounds=7) for kind in (0, 1)]
        macs = {name: tfvt.profile(model).macs for name, model in pair.items()}
        for name in pair:
            cells = []
            for t in timed:
                ratio = median_ratio(t, "resnet", name)
                cells.append(f"{BATCH / median_ms(t[name]) * 1000:7.1f} {ratio:5.2f}x")
            print(f"{name + str(depth):24}  {'  '.join(cells)}  {macs['resnet'] / macs[name]:8.2f}x")


if __name__ == "__main__":
    grouped_convolutions()
    networks()
