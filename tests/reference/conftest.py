"""The plain U-Net that `UNetSegmenter` is held against is also what it is timed against: it lies with the benchmarks."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
