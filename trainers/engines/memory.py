"""What a process holds."""

import resource
import sys


def resident_peak() -> float:
    """MiB: the most that this process ever held."""
    bytes_per_unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * bytes_per_unit / 2**20
