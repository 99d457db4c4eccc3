"""The import path of the plain U-Net, which the tests compare with `UNetSegmenter`.

It lies in the folder of the benchmarks, because they time both.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
