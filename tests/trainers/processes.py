"""Training in a process of its own."""

import sys


def train_command(config, folder, *flags):
    """The command line of `tfvt train`, for a process of its own."""
    main = "import sys; from tfvt.trainers.cli import main; sys.exit(main())"
    arguments = ["train", "--output", str(folder), *flags]
    if config:
        arguments += ["--config", str(config)]
    return [sys.executable, "-W", "error::UserWarning", "-c", main, *arguments]
