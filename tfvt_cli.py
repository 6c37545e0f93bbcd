"""Start of the command `tfvt`; the command itself is `trainers/cli.py`.

A module of its own because importing anything below `tfvt` loads Keras and its backend, and TensorFlow reads this
setting when it is loaded.
"""

import os


def main():
    # TensorFlow's C++ side writes pages about the processor and the absence of a GPU; its errors raise.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from tfvt.trainers.cli import main

    return main()
