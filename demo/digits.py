"""`make demo`: handwritten digits over photographs -> TFRecords -> VT-ResNet -> SavedModel -> answers and a picture.

Every step except the drawing is a command that works on a user's own images in the same way.
"""

import csv
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from rich.console import Console
from rich.table import Table

from demo.images import write_folders

ROOT = Path("runs/demo")
RECIPE = "configs/digits_vt_resnet.yaml"
REQUIRED_TOP1 = 0.96
FOREGROUND = 0.25  # a pixel with more ink than this is part of the digit

console = Console(highlight=False)


def main():
    started = time.monotonic()
    shutil.rmtree(ROOT, ignore_errors=True)
    images, records, run, saved_model = (ROOT / name for name in ("images", "records", "run", "saved_model"))
    held_out = write_folders(images)
    command("tfvt", "records", "convert", images, records)
    command("tfvt", "train", "--config", RECIPE, "--output", run)
    command("tfvt", "evaluate", run)
    command("tfvt", "export", run, saved_model)
    examples = [next(s for s in held_out[600:] if s.label == digit) for digit in range(10)]
    files = [images / s.split / str(s.label) / s.file for s in examples]
    command("python", "-m", "demo.ask", saved_model, *files)
    summary = look_at_tokens(run, held_out, examples)
    top1 = summarize(run, summary, time.monotonic() - started)
    if top1 < REQUIRED_TOP1:
        sys.exit(f"validation top-1 is {top1:.2%}, expected at least {REQUIRED_TOP1:.0%}")


def command(*words):
    """Print a command and run it, in this process's environment."""
    words = [str(word) for word in words]
    console.print(f"\n[bold]$ {shlex.join(words)}[/bold]", soft_wrap=True)
    result = subprocess.run([Path(sys.executable).with_name(words[0]), *words[1:]], check=False)
    if result.returncode:
        sys.exit(f"{words[0]} {words[1]} ended with status {result.returncode}")


def look_at_tokens(run, held_out, examples):
    """Draw what each token of the first module looks at; attention and area of the digits over the held-out images."""
    import keras

    import tfvt
    from tfvt.analysis import draw_token_attention, foreground_attention, token_attention

    model = keras.models.load_model(run / "final.keras", compile=False)
    picture = ROOT / "token_attention.png"
    shown = np.stack([s.pixels for s in examples[::2]])
    titles = [f"digit {s.label}" for s in examples[::2]]
    draw_token_attention(shown, token_attention(model, shown)["vt1_tokenizer"], picture, titles)

    pixels = np.stack([s.pixels for s in held_out])
    digits = np.stack([s.ink for s in held_out]) > FOREGROUND
    shares = {name: foreground_attention(a, digits).mean() for name, a in token_attention(model, pixels).items()}
    return {"profile": tfvt.profile(model), "picture": picture, "area": digits.mean(), "attention": shares}


def summarize(run, summary, seconds):
    """Print the results and the place of every file; returns validation top-1."""
    with open(run / "metrics.csv", newline="") as file:
        epochs = list(csv.DictReader(file))
    top1 = float(epochs[-1]["validation_top1"])
    rate = np.median([float(epoch["images_per_second"]) for epoch in epochs])
    profile = summary["profile"]
    table = Table(title="\nmake demo", show_header=False, title_justify="left")
    table.add_row("validation top-1", f"{top1:.2%} of digits that it never saw in training")
    table.add_row("training speed", f"{rate:.0f} images/s (median over epochs)")
    table.add_row("parameters", f"{profile.params:,}")
    table.add_row("MACs an image", f"{profile.macs:,}")
    table.add_row("area of the digit", f"{summary['area']:.1%} of the image")
    for name, share in summary["attention"].items():
        table.add_row(f"attention of {name}", f"{share:.1%} on the digit, {share / summary['area']:.1f} times its area")
    table.add_row("model", str(run / "final.keras"))
    table.add_row("served model", str(ROOT / "saved_model"))
    table.add_row("picture", str(summary["picture"]))
    table.add_row("images, records", f"{ROOT / 'images'}, {ROOT / 'records'}")
    table.add_row("time", f"{seconds / 60:.1f} minutes")
    console.print(table)
    return top1


if __name__ == "__main__":
    main()
