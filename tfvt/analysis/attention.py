"""Where visual tokens look: attention of the tokenizers over the image (Visual Transformers, ICCV 2021, section 6)."""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from tfvt.layers import Tokenizer


def token_attention(model: keras.Model, images: np.ndarray, batch_size: int = 32) -> dict[str, np.ndarray]:
    """Attention of every tokenizer over the map that it reads.

    Args:
        model: a VT-ResNet or a VT-FPN.
        images: (B, H, W, 3), as the model takes them.
        batch_size: images at a time.

    Returns:
        Tokenizer's layer name -> (B, h, w, L), in the order of the modules; each token's attention sums to 1 over
        the h x w pixels of the map.

    Raises:
        ValueError: the model has no tokenizer.
    """
    layers = [layer for layer in model.layers if isinstance(layer, Tokenizer)]
    if not layers:
        raise ValueError(f"{model.name} has no tokenizer")
    attending = keras.Model(model.input, [layer.output[1] for layer in layers])
    parts = []
    for start in range(0, len(images), batch_size):
        outputs = attending(images[start : start + batch_size], training=False)
        parts.append([keras.ops.convert_to_numpy(o).astype("float32") for o in outputs])
    return {layer.name: np.concatenate(maps) for layer, maps in zip(layers, zip(*parts, strict=True), strict=True)}


def foreground_attention(attention: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """Share of each token's attention that falls on the foreground.

    A pixel of the attention map counts by the share of its area that is foreground.

    Args:
        attention: (B, h, w, L), each token's sums to 1.
        foreground: (B, H, W), share of foreground in each pixel, 0..1; H and W are multiples of h and w.

    Returns:
        (B, L). A token that looks everywhere equally gets the share of the area that is foreground.

    Raises:
        ValueError: sizes that do not match.
    """
    attention, foreground = np.asarray(attention), np.asarray(foreground, dtype="float64")
    batch, h, w, _ = attention.shape
    if len(foreground) != batch or foreground.shape[1] % h or foreground.shape[2] % w:
        raise ValueError(f"foreground {foreground.shape} does not match attention {attention.shape}")
    cells = foreground.reshape(batch, h, foreground.shape[1] // h, w, foreground.shape[2] // w).mean(axis=(2, 4))
    return np.einsum("bhwl,bhw->bl", attention, cells)


def draw_token_attention(
    images: np.ndarray, attention: np.ndarray, path: Path | str, titles: Sequence[str] | None = None
) -> None:
    """Draw each token's attention over each image, as in the paper's Figure 6, and save the picture.

    Args:
        images: (B, H, W, 3), 0..255: one row each.
        attention: (B, h, w, L): one column a token, beside the image; each scaled to its own maximum.
        path: where to save, by its ending (.png, .svg, .pdf).
        titles: one a row, such as the predicted class.
    """
    from matplotlib.figure import Figure

    rows, columns = len(images), attention.shape[-1] + 1
    height, width = images.shape[1:3]
    size = (columns * 1.1, rows * (1.1 * height / width + 0.05) + 0.25)  # inches
    figure = Figure(figsize=size, layout="constrained")
    axes = np.array(figure.subplots(rows, columns, squeeze=False))
    for row in range(rows):
        gray = np.repeat(images[row].mean(axis=-1, keepdims=True), 3, axis=-1) / 255
        axes[row, 0].imshow(images[row].astype("uint8"))
        axes[row, 0].set_ylabel(titles[row] if titles else "", fontsize=8)
        for token in range(columns - 1):
            axis = axes[row, token + 1]
            axis.imshow(gray)
            axis.imshow(
                attention[row, :, :, token],
                cmap="jet",
                alpha=0.55,
                interpolation="bilinear",
                extent=(-0.5, width - 0.5, height - 0.5, -0.5),
                vmin=0,
            )
    for column, axis in enumerate(axes[0]):
        axis.set_title("image" if column == 0 else f"token {column}", fontsize=8)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    figure.savefig(path, dpi=110)
