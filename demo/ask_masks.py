"""Ask a SavedModel for the classes of pixels, as a server would: with TensorFlow only, without this project's code.

python -m demo.ask_masks SAVED_MODEL IMAGE...
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf


def main(saved_model, *files):
    serve = tf.saved_model.load(saved_model).signatures["serving_default"]
    answer = serve(image=tf.constant([Path(file).read_bytes() for file in files]))
    label_maps, sizes = answer["label_map"].numpy(), answer["size"].numpy()
    for file, label_map, (height, width) in zip(files, label_maps, sizes, strict=True):
        classes, pixels = np.unique(label_map[:height, :width], return_counts=True)
        shares = (f"class {label} {share:.1%}" for label, share in zip(classes, pixels / pixels.sum(), strict=True))
        print(f"{file}: {width}x{height} pixels, {', '.join(shares)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
