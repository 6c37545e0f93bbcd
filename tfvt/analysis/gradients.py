"""Gradients of class logits by the image: saliency, and images that a model takes for a class.

Sources: Simonyan et al. 2014, https://arxiv.org/abs/1312.6034, for both; Funnel-ViT (Zhang), Figures 3 and 5, which
show them for a ViT and a Funnel-ViT.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from tfvt.analysis.intermediate import array


@dataclass(frozen=True)
class ClassGradients:
    """Logits of images and the gradients of one each.

    Attributes:
        classes: whose logit, (B,).
        logits: (B, classes).
        gradients: of that logit by the image, (B, H, W, C), per unit of a pixel.
    """

    classes: np.ndarray
    logits: np.ndarray
    gradients: np.ndarray

    @property
    def saliency(self) -> np.ndarray:
        """The largest |gradient| of a pixel's channels, (B, H, W)."""
        return np.abs(self.gradients).max(axis=-1)


def class_gradients(model: keras.Model, images: np.ndarray, classes: Sequence[int] | None = None) -> ClassGradients:
    """The gradient of one class logit of each image by the image, in inference.

    Args:
        model: a classifier.
        images: (B, H, W, C), as the model takes them.
        classes: one an image; default the class with the highest logit.

    Raises:
        ValueError: the model gives something else than one logit for each class, or a class that it does not have.
    """
    images = np.asarray(images, "float32")
    check_classifier(model)
    if classes is None:
        classes = array(model(images, training=False)).argmax(axis=-1)
    classes = checked_classes(model, classes)
    logits, gradients = gradient_function(model)(images, classes)
    return ClassGradients(classes, logits, gradients)


def check_classifier(model: keras.Model) -> None:
    """Raise a ValueError unless the model gives one logit for each class of an image."""
    shape = getattr(model, "output_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 2:
        raise ValueError(f"{model.name} is no classifier: it gives {shape}, expected (images, classes)")


def checked_classes(model: keras.Model, classes: Sequence[int]) -> np.ndarray:
    """The classes as an array; raise a ValueError if the model does not have one."""
    count = model.output_shape[-1]
    for number in classes:
        if not 0 <= number < count:
            raise ValueError(f"class {number}: {model.name} has the classes 0 to {count - 1}")
    return np.asarray(classes, "int32")


def gradient_function(model: keras.Model) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """From images (B, H, W, C) and classes (B,) to logits (B, classes) and the gradients (B, H, W, C) of theirs."""
    compiled = {"tensorflow": _on_tensorflow, "jax": _on_jax, "torch": _on_torch}[keras.backend.backend()](model)

    def call(images, classes):
        chosen = np.eye(model.output_shape[-1], dtype="float32")[classes]
        return tuple(map(array, compiled(images.astype("float32"), chosen)))

    return call


def _on_tensorflow(model):
    import tensorflow as tf

    @tf.function(reduce_retracing=True)
    def compiled(images, chosen):
        with tf.GradientTape() as tape:
            tape.watch(images)
            logits = tf.cast(model(images, training=False), tf.float32)
            score = tf.reduce_sum(logits * chosen)
        return logits, tape.gradient(score, images)

    return lambda images, chosen: compiled(tf.constant(images), tf.constant(chosen))


def _on_jax(model):
    import jax

    @jax.jit
    def compiled(variables, images, chosen):
        def score(images):
            logits = ops.cast(model.stateless_call(*variables, images, training=False)[0], "float32")
            return (logits * chosen).sum(), logits

        (_, logits), gradients = jax.value_and_grad(score, has_aux=True)(images)
        return logits, gradients

    variables = [[v.value for v in vs] for vs in (model.trainable_variables, model.non_trainable_variables)]
    return lambda images, chosen: compiled(variables, images, chosen)


def _on_torch(model):
    import torch

    def compiled(images, chosen):
        images = ops.convert_to_tensor(images).requires_grad_(True)
        logits = ops.cast(model(images, training=False), "float32")
        (gradients,) = torch.autograd.grad((logits * ops.convert_to_tensor(chosen)).sum(), images)
        return logits.detach(), gradients

    return compiled


def visualize_classes(
    model: keras.Model,
    classes: Sequence[int],
    steps: int = 150,
    image_size: tuple[int, int] | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Images that the model takes for the classes: gradient ascent on each class's logit from a grey image.

    Plain ascent ends in noise that nobody can read. Three things keep the images smooth: every step sees the image
    shifted at random by up to an eighth of its side (jitter), follows the gradient with fine structure damped, each
    frequency f by 1 / f (in the Fourier domain, as Olah et al. 2017, https://distill.pub/2017/feature-visualization,
    precondition it), and draws the image a little towards grey (decay).

    Args:
        model: a classifier of pixels in 0..255.
        classes: whose images; they are computed side by side.
        steps: of the ascent.
        image_size: (height, width), for a model that takes any.
        seed: of the noise at the start and of the shifts.

    Returns:
        Images (classes, H, W, C) in 0..255, float32, and the soft-max that the model gives each for its class.

    Raises:
        ValueError: no classifier, a class that it does not have, or no size.
    """
    check_classifier(model)
    classes = checked_classes(model, classes)
    height, width, channels = model.inputs[0].shape[1:]
    height, width = (own or given for own, given in zip((height, width), image_size or (None, None), strict=True))
    if not height or not width:
        raise ValueError(f"{model.name} takes images of any size: pass image_size=(height, width)")
    rng = np.random.default_rng(seed)
    call = gradient_function(model)
    images = 127.5 + rng.normal(0, 8, (len(classes), height, width, channels))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    damping = 1 / np.maximum(frequency, 1 / max(height, width))[None, :, :, None]
    for step in range(steps):
        shift = rng.integers(-(min(height, width) // 8), min(height, width) // 8 + 1, 2)
        _, gradients = call(np.roll(images, shift, axis=(1, 2)), classes)
        gradients = np.roll(gradients, -shift, axis=(1, 2))
        smooth = np.fft.irfft2(np.fft.rfft2(gradients, axes=(1, 2)) * damping, s=(height, width), axes=(1, 2))
        size = np.sqrt(np.square(smooth).mean(axis=(1, 2, 3), keepdims=True))
        rate = 8 * (1 - step / steps) + 0.5  # pixel units, root mean square
        images = images + rate * smooth / np.maximum(size, 1e-12)
        images = np.clip(127.5 + 0.99 * (images - 127.5), 0, 255)
    logits, _ = call(images, classes)
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    return images.astype("float32"), shares[np.arange(len(classes)), classes]
