"""Ask a SavedModel for the objects in images, as a server would: with TensorFlow only, without this project's code.

python -m demo.ask_boxes SAVED_MODEL IMAGE...
"""

import sys
from pathlib import Path

import tensorflow as tf

LEAST = 0.5  # the lowest score that is printed


def main(saved_model, *files):
    serve = tf.saved_model.load(saved_model).signatures["serving_default"]
    answer = serve(image=tf.constant([Path(file).read_bytes() for file in files]))
    for place, file in enumerate(files):
        for name, score, box in zip(*(answer[key][place].numpy() for key in ("names", "scores", "boxes")), strict=True):
            if score > LEAST:  # places that are empty have 0
                y1, x1, y2, x2 = box
                print(f"{file}: {name.decode()} {score:.0%}, rows {y1:.0f} to {y2:.0f}, columns {x1:.0f} to {x2:.0f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
