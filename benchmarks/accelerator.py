"""One accelerator under JAX: images/s, peak memory and share of the chip's peak in bfloat16.

python -m benchmarks.accelerator [--models resnet50 vit_base16] [--batch_sizes 128 256] [--json FILE]

Needs Keras, JAX and tfvt's models: no records, no TensorFlow. Every measurement is a process of its own, because a
device tells only the most memory that the whole process took. A model FLOP is half a multiply-add of `tfvt.profile`;
training counts three times the forward pass. That leaves out norms, soft-max and the like, and whatever a program
computes twice.
"""

import os

os.environ["KERAS_BACKEND"] = "jax"

import argparse
import functools
import itertools
import json
import re
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import jax
import keras

import tfvt
from tfvt.models.blocks import Rematerialized

ROOT = Path(__file__).parent.parent

MODELS = (
    "vit_base16",
    "funnel_vit_base16_6_6",
    "funnel_vit_base16_4_4_4",
    "resnet50",
    "vt_resnet50",
    "acmix_resnet50",
    "acmix_swin_tiny",
)
MODES = ("training", "rematerialized", "inference")
# Dense bfloat16 FLOP/s that the makers state, by JAX's name of the device. Other forms of a chip have other peaks.
PEAKS = {
    r"NVIDIA H100 80GB HBM3|NVIDIA H200": 989e12,  # SXM
    r"NVIDIA A100.*": 312e12,
    r"TPU v4": 275e12,
    r"TPU v5 lite|TPU v5e": 197e12,
    r"TPU v5p?": 459e12,
    r"TPU v6 lite|TPU v6e": 918e12,
}


@dataclass(frozen=True)
class Measurement:
    """What one process measured.

    Attributes:
        mode: "training" (forward, backward, update), "rematerialized" (the same, with the insides of blocks computed
            twice) or "inference".
        first_step_seconds: compilation included.
        block_seconds: of each timed block of `steps` steps.
        flop_per_step: model FLOP of a batch.
        peak_bytes: the most that the device's allocator held; None where the device does not say.
        peak_flop_per_second: of the device; None for one that `PEAKS` does not have.
    """

    model: str
    mode: str
    batch_size: int
    image_size: int
    device: str
    steps: int
    first_step_seconds: float
    block_seconds: tuple[float, ...]
    flop_per_step: int
    peak_bytes: int | None
    peak_flop_per_second: float | None

    @property
    def step_seconds(self) -> float:
        """The median over the blocks."""
        return statistics.median(self.block_seconds) / self.steps

    @property
    def images_per_second(self) -> float:
        return self.batch_size / self.step_seconds

    @property
    def flop_per_second(self) -> float:
        return self.flop_per_step / self.step_seconds

    @property
    def share_of_peak(self) -> float | None:
        return self.peak_flop_per_second and self.flop_per_second / self.peak_flop_per_second

    def as_json(self) -> dict:
        derived = ("step_seconds", "images_per_second", "flop_per_second", "share_of_peak")
        return asdict(self) | {name: getattr(self, name) for name in derived}

    def as_row(self) -> str:
        memory = "" if self.peak_bytes is None else f"{self.peak_bytes / 2**30:.2f}"
        share = "" if self.share_of_peak is None else f"{100 * self.share_of_peak:.1f} %"
        cells = (
            f"`{self.model}`", self.mode, str(self.batch_size), f"{1000 * self.step_seconds:.2f}",
            f"{self.images_per_second:.1f}", memory, f"{self.flop_per_second / 1e12:.2f}", share,
        )  # fmt: skip
        return f"| {' | '.join(cells)} |"


def training_step(model, forward, optimizer):
    """A jitted step (state, images, labels) -> (state, loss) that reuses the state's memory, and its first state.

    `forward` gives the logits that `model` gives of images in training.
    """
    optimizer.build(model.trainable_variables)

    def loss(trainable, others, images, labels):
        variables = model.trainable_variables + model.non_trainable_variables
        with keras.StatelessScope(zip(variables, [*trainable, *others], strict=True)) as scope:
            log_shares = jax.nn.log_softmax(forward(images).astype("float32"))
        others = [scope.get_current_value(variable) for variable in model.non_trainable_variables]
        return -jax.numpy.take_along_axis(log_shares, labels[:, None], axis=-1).mean(), others

    def step(state, images, labels):
        trainable, others, moments = state
        (value, others), gradients = jax.value_and_grad(loss, has_aux=True)(trainable, others, images, labels)
        trainable, moments = optimizer.stateless_apply(moments, gradients, trainable)
        return (trainable, others, moments), value

    return jax.jit(step, donate_argnums=0), values(
        model.trainable_variables, model.non_trainable_variables, optimizer.variables
    )


def inference_step(model):
    """A step of the same form whose state stays and whose value is the logits."""

    @jax.jit
    def forward(trainable, others, images):
        return model.stateless_call(trainable, others, images, training=False)[0]

    def step(state, images, labels):
        return state, forward(*state, images)

    return step, values(model.trainable_variables, model.non_trainable_variables)


def values(*parts):
    return tuple([variable.value for variable in variables] for variables in parts)


def measure(model, mode, batch_size, image_size, steps, blocks):
    """One `Measurement`, on the first device of this process."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    keras.utils.set_random_seed(0)
    network = tfvt.create_model(model, input_shape=(image_size, image_size, 3))
    flop_per_image = 2 * tfvt.profile(network).macs * (1 if mode == "inference" else 3)
    plain = functools.partial(network, training=True)
    forward = Rematerialized(network, jax.checkpoint) if mode == "rematerialized" else plain
    if mode == "inference":
        step, state = inference_step(network)
    elif "resnet" in model:
        step, state = training_step(network, forward, keras.optimizers.SGD(0.01, momentum=0.9))
    else:
        step, state = training_step(network, forward, keras.optimizers.AdamW(1e-3, weight_decay=0.05))
    key = jax.random.key(0)
    images = jax.random.uniform(key, (batch_size, image_size, image_size, 3), maxval=255.0)
    labels = jax.random.randint(key, (batch_size,), 0, 1000)

    def seconds(count):
        nonlocal state
        started = time.perf_counter()
        for _ in range(count):
            state, value = step(state, images, labels)
        jax.block_until_ready((state, value))
        return time.perf_counter() - started

    first = seconds(1)
    seconds(steps)  # warm-up
    device = jax.devices()[0]
    return Measurement(
        model, mode, batch_size, image_size, device.device_kind, steps,
        first_step_seconds=first,
        block_seconds=tuple(seconds(steps) for _ in range(blocks)),
        flop_per_step=flop_per_image * batch_size,
        peak_bytes=(device.memory_stats() or {}).get("peak_bytes_in_use"),
        peak_flop_per_second=peak_of(device.device_kind),
    )  # fmt: skip


def peak_of(device_kind):
    """Bfloat16 FLOP/s of a device; None for one that `PEAKS` does not have."""
    return next((peak for pattern, peak in PEAKS.items() if re.fullmatch(pattern, device_kind)), None)


def measure_apart(settings):
    """`measure` in a process of its own.

    Raises:
        RuntimeError: the process failed, for want of memory for example; the text is the last line that it wrote.
    """
    code = f"import json; from benchmarks.accelerator import measure; print(json.dumps(vars(measure(**{settings!r}))))"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError((process.stderr.strip().splitlines() or [f"exit status {process.returncode}"])[-1])
    return Measurement(**json.loads(process.stdout.splitlines()[-1]))


def main(arguments=None):
    """Measure what the flags name, print the table and return the number of failures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accelerator", description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS, choices=tfvt.list_models(), metavar="NAME")
    parser.add_argument("--modes", nargs="+", default=("training", "inference"), choices=MODES)
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=(256,), metavar="IMAGES")
    parser.add_argument("--image_size", type=int, default=224, metavar="PIXELS")
    parser.add_argument("--steps", type=int, default=20, help="of a timed block")
    parser.add_argument("--blocks", type=int, default=5, help="timed blocks, whose median counts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure here")
    flags = parser.parse_args(arguments)
    done, failures = [], 0
    print("| model | mode | batch | ms a step | images/s | peak memory, GiB | TFLOP/s | share of the peak |")
    print("|---|---|---|---|---|---|---|---|")
    for model, mode, batch_size in itertools.product(flags.models, flags.modes, flags.batch_sizes):
        settings = {"model": model, "mode": mode, "batch_size": batch_size, "image_size": flags.image_size}
        try:
            done.append(measure_apart(settings | {"steps": flags.steps, "blocks": flags.blocks}))
            print(done[-1].as_row(), flush=True)
        except RuntimeError as error:
            failures += 1
            print(f"| `{model}` | {mode} | {batch_size} | failed: {error} | | | | |", flush=True)
    versions = {name: version(name) for name in ("jax", "keras")}
    devices = ", ".join(dict.fromkeys(measurement.device for measurement in done))
    print(f"\nDevice {devices}; {flags.image_size}x{flags.image_size}; {versions}")
    if flags.json:
        text = json.dumps(versions | {"measurements": [one.as_json() for one in done]}, indent=2)
        flags.json.write_text(text, encoding="utf-8")
    return failures


if __name__ == "__main__":
    sys.exit(min(main(), 1))
