"""`make bench`: every benchmark, one after the other, each in a process of its own."""

import subprocess
import sys
from pathlib import Path

# The last two take hours on a CPU.
NOT_TIMED = {"__init__", "__main__", "timing", "counting", "fidelity", "fidelity_detection", "fidelity_segmentation"}
NOT_TIMED |= {"imagenet_shaped", "accelerator", "torchvision_on_cpu"}

if __name__ == "__main__":
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem not in NOT_TIMED:
            print(f"\n## benchmarks.{path.stem}", flush=True)
            subprocess.run([sys.executable, "-m", f"benchmarks.{path.stem}"], check=True)
