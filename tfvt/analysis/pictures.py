"""Pictures of what `tfvt.analysis` finds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np


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
