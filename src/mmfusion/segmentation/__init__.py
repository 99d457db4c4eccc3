"""Lung segmentation in Keras 3, on the torch or the tensorflow backend; nothing else in this package imports Keras.

The backend is the user's choice, by `KERAS_BACKEND` or keras.json; this package reads it and never
sets it.
"""

from __future__ import annotations

import importlib.util
import os
import sys

if importlib.util.find_spec("keras") is None:
    raise ImportError(
        'mmfusion.segmentation needs Keras 3, which is not installed. Run: pip install "mmfusion[keras]"'
    )
# Before Keras, which may load tensorflow: torchvision brings triton, triton and tensorflow bring an
# LLVM each, and where tensorflow's comes first the process dies as soon as an image encoder loads
# the other. Where it is there already, it is too late for encoders, and segmentation does without
# torchvision.
if "tensorflow" not in sys.modules:
    import torchvision  # noqa: F401

try:
    import keras
except ImportError as error:
    raise ImportError(
        f"Keras's backend must be an installed library, got {error.name or error} "
        f"(KERAS_BACKEND={os.environ.get('KERAS_BACKEND', '')!r}). Set KERAS_BACKEND=torch, or install it."
    ) from error
if keras.version() < "3":
    raise ImportError(
        f'mmfusion.segmentation needs Keras 3, got {keras.version()}. Run: pip install "mmfusion[keras]"'
    )
