"""ViT-B/16 beside other people's code, and Funnel-ViT beside ViT: images per second and memory.

python -m benchmarks.vit [peers] [memory] [funnel] [attention] [xla]    (all of them without arguments)

Training is the forward pass, the cross entropy and the gradients of all weights, without the optimizer. The limit
is the time that TensorFlow's own matrix product needs for the same products, one after the other.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import importlib.util
import multiprocessing
import sys
import warnings

import numpy as np

from benchmarks.timing import alternate, median_ms, median_ratio, record

BATCH, XLA_BATCH, CLASSES = 8, 16, 1000
KINDS = ("inference", "training")
FUNNELS = ("vit_base16", "funnel_vit_base16_6_6", "funnel_vit_base16_4_4_4", "funnel_vit_base16_6_6_stride4")
IMAGES = np.random.default_rng(0).integers(0, 256, (BATCH, 224, 224, 3)).astype("float32")
LABELS = np.arange(BATCH) % CLASSES


def tensorflow_calls(model, variables):
    """(inference, training) of a model of Keras 2 or 3 as graph functions."""
    import tensorflow as tf

    images, labels = tf.constant(IMAGES), tf.constant(LABELS)

    @tf.function(autograph=False)
    def train():
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        return tape.gradient(loss, variables)

    return tf.function(lambda: model(images, training=False), autograph=False), train


def keras_calls(model):
    return tensorflow_calls(model, [variable.value for variable in model.trainable_variables])


def ours(name="vit_base16"):
    import tfvt

    return keras_calls(tfvt.create_model(name, num_classes=CLASSES))


def official_models():
    import tf_keras
    from official.vision.modeling.backbones.vit import VisionTransformer
    from official.vision.modeling.classification_model import ClassificationModel

    specs = tf_keras.layers.InputSpec(shape=[None, 224, 224, 3])
    model = ClassificationModel(VisionTransformer(input_specs=specs, dropout_rate=0.0), CLASSES, input_specs=specs)
    return tensorflow_calls(model, model.trainable_variables)


def keras_hub():
    import keras_hub

    backbone = keras_hub.models.ViTBackbone(
        image_shape=(224, 224, 3), patch_size=16, num_layers=12, num_heads=12, hidden_dim=768, mlp_dim=3072,
        dropout_rate=0.0, attention_dropout=0.0,
    )  # fmt: skip
    return keras_calls(keras_hub.models.ViTImageClassifier(backbone=backbone, num_classes=CLASSES))


def torch_calls(model):
    """(inference, training) of a model of transformers on PyTorch."""
    import torch

    images, labels = torch.tensor(IMAGES.transpose(0, 3, 1, 2).copy()), torch.tensor(LABELS)

    def infer():
        with torch.inference_mode():
            return model.eval()(images).logits

    def train():
        model.train().zero_grad()
        torch.nn.functional.cross_entropy(model(images).logits, labels).backward()

    return infer, train


def transformers_torch():
    from transformers import ViTConfig, ViTForImageClassification

    return torch_calls(ViTForImageClassification(ViTConfig(num_labels=CLASSES)))


ALL_PEERS = {  # name -> (what makes its calls, the module that it needs)
    "tfvt": (ours, "tfvt"),
    "TensorFlow official models": (official_models, "official"),
    "keras-hub": (keras_hub, "keras_hub"),
    "transformers on PyTorch": (transformers_torch, "transformers"),
}
PEERS = {name: make for name, (make, module) in ALL_PEERS.items() if importlib.util.find_spec(module)}


def matmul_limit(tokens=197, channels=768, mlp=3072, heads=12, layers=12):
    """(forward, forward and backward) products of ViT-B/16, one after the other, each layer with its own matrices."""
    import tensorflow as tf

    normal = tf.random.stateless_normal
    shapes = [((channels, 3 * channels),), ((channels, channels),), ((channels, mlp),), ((mlp, channels),)]
    matrices = [[normal(shape, (layer, i)) for i, (shape,) in enumerate(shapes)] for layer in range(layers)]
    rows = {width: normal((BATCH * tokens, width), (0, width)) for width in (channels, 3 * channels, mlp)}
    embedding = normal((16 * 16 * 3, channels), (1, 0))
    query = normal((BATCH, heads, tokens, channels // heads), (1, 1))
    weights = normal((BATCH, heads, tokens, tokens), (1, 2))

    def run(backward):
        last = tf.constant(0.0)

        def product(*arguments, **transposed):
            nonlocal last
            with tf.control_dependencies([last]):
                outputs = tf.matmul(*arguments, **transposed)
            last += tf.reshape(outputs, [-1])[0]  # TensorFlow would drop a product that nothing reads

        product(rows[channels][:-BATCH], embedding)
        for layer in matrices:
            for matrix in layer:
                inputs, outputs = rows[matrix.shape[0]], rows[matrix.shape[1]]
                product(inputs, matrix)
                if backward:
                    product(outputs, matrix, transpose_b=True)
                    product(inputs, outputs, transpose_a=True)
            for _ in range(3 if backward else 1):
                product(query, query, transpose_b=True)
                product(weights, query)
        return last

    return tuple(tf.function(lambda backward=backward: run(backward), autograph=False) for backward in (False, True))


def peers():
    """Inference and training of each, alternating."""
    print(f"ViT-B/16, 224x224, batch {BATCH}, float32: images/s (median), and how many times as fast as each ours is")
    print(f"{'':28}{'inference':>24}{'training':>24}")
    calls = {name: make() for name, make in PEERS.items()} | {"limit: the products alone": matmul_limit()}
    timed = [
        alternate({name: pair[kind] for name, pair in calls.items()}, rounds=rounds)
        for kind, rounds in ((0, 11), (1, 7))
    ]
    for name in calls:
        cells = []
        for kind, seconds in zip(KINDS, timed, strict=True):
            ratio = median_ratio(seconds, name, "tfvt", f"ViT-B/16, {kind}")
            cells.append(f"{1000 * BATCH / median_ms(seconds[name]):16.2f}{ratio:7.3f}x")
        print(f"{name:28}{''.join(cells)}", flush=True)


def memory():
    """Peak resident memory of a process that does one thing, above its memory once its code was loaded."""
    print(f"\nPeak memory above the loaded libraries, MiB, batch {BATCH}\n{'':28}{'inference':>16}{'training':>16}")
    context = multiprocessing.get_context("spawn")
    for name in PEERS:
        cells = []
        for kind in (0, 1):
            with context.Pool(1) as pool:
                cells.append(pool.apply(peak_memory, (name, kind)))
            record(f"ViT-B/16, {KINDS[kind]}", f"peak memory, {name}", cells[-1:], "MiB")
        print(f"{name:28}{cells[0]:16.0f}{cells[1]:16.0f}", flush=True)


def peak_memory(name, kind):
    """MiB, in a process of its own."""
    warnings.simplefilter("ignore")
    import tensorflow  # noqa: F401

    import tfvt.models  # noqa: F401
    from tfvt.trainers.engines.memory import resident_peak

    if name.startswith("transformers"):
        import torch  # noqa: F401
        import transformers.models.vit.modeling_vit  # noqa: F401
    before = resident_peak()
    call = PEERS[name]()[kind]
    for _ in range(2):
        call()
    return resident_peak() - before


def funnel():
    """Training steps of Funnel-ViT beside ViT."""
    import tfvt

    print(f"\nTraining at 224x224, batch {BATCH}, images/s (median), times ViT-B/16, and what MACs alone would give")
    seconds = alternate({name: ours(name)[1] for name in FUNNELS}, rounds=5)
    macs = {name: tfvt.profile(name).macs for name in FUNNELS}
    for name in FUNNELS:
        ratio = median_ratio(seconds, "vit_base16", name, "training")
        by_macs = macs["vit_base16"] / macs[name]
        print(f"{name:32}{1000 * BATCH / median_ms(seconds[name]):8.2f}{ratio:8.3f}x{by_macs:8.3f}x", flush=True)


def attention():
    """The two forms of attention that `tfvt.layers.attention` chooses from, on TensorFlow."""
    import keras
    import tensorflow as tf

    from tfvt.layers import multi_head_attention

    tensors = [tf.random.stateless_normal((BATCH, 197, 768), (0, i)) for i in range(3)]

    def fused(*parts):
        return keras.ops.dot_product_attention(*(tf.reshape(x, (BATCH, 197, 12, 64)) for x in parts))

    def calls(form):
        @tf.function(autograph=False)
        def train():
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                outputs = form(*tensors)
            return tape.gradient(outputs, tensors)

        return tf.function(lambda: form(*tensors), autograph=False), train

    forms = {"matmul": calls(lambda *parts: multi_head_attention(*parts, 12)), "dot_product_attention": calls(fused)}
    print(f"\nAttention of one layer of ViT-B/16, batch {BATCH}, milliseconds (median), and times ours")
    timed = [alternate({name: pair[kind] for name, pair in forms.items()}, rounds=41) for kind in (0, 1)]
    for name in forms:
        cells = []
        for kind, t in zip(("forward", "forward and backward"), timed, strict=True):
            cells.append(f"{median_ms(t[name]):10.2f}{median_ratio(t, name, 'matmul', f'attention, {kind}'):7.2f}x")
        print(f"{name:28}{''.join(cells)}", flush=True)


def xla():
    """Temporary memory of the compiled training step by XLA's own analysis, on the JAX backend."""
    print(f"\nTemporary memory of the training step compiled by XLA (JAX, 224x224, batch {XLA_BATCH}), MiB")
    context = multiprocessing.get_context("spawn")
    os.environ["KERAS_BACKEND"] = "jax"
    base = None
    for name in FUNNELS:
        with context.Pool(1) as pool:
            mebibytes = pool.apply(xla_memory, (name,))
        base = base or mebibytes
        record("training", f"temporary memory by XLA, {name}", [mebibytes], "MiB")
        print(f"{name:32}{mebibytes:10.1f}{100 * (mebibytes / base - 1):+8.1f} %", flush=True)


def xla_memory(name):
    """MiB, in a process of its own; the step is compiled, not run."""
    import jax

    import tfvt

    model = tfvt.create_model(name, num_classes=CLASSES)

    def loss(trainable, rest, images, labels):
        logits, _ = model.stateless_call(trainable, rest, images, training=True)
        return -jax.numpy.mean(jax.nn.log_softmax(logits)[jax.numpy.arange(XLA_BATCH), labels])

    shaped = jax.ShapeDtypeStruct
    weights = [
        [shaped(v.shape, v.dtype) for v in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    ]
    images, labels = shaped((XLA_BATCH, 224, 224, 3), "float32"), shaped((XLA_BATCH,), "int32")
    step = jax.jit(jax.value_and_grad(loss)).lower(*weights, images, labels).compile()
    return step.memory_analysis().temp_size_in_bytes / 2**20


TABLES = {"peers": peers, "memory": memory, "funnel": funnel, "attention": attention, "xla": xla}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if len(PEERS) < len(ALL_PEERS):
        print(f"Not installed, left out: {', '.join(set(ALL_PEERS) - set(PEERS))}")
    for table in sys.argv[1:] or TABLES:
        TABLES[table]()
