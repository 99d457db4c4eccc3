"""The segmentation of lungs in Keras 3, on the torch or the tensorflow backend.

No other folder imports Keras. The user chooses the backend by `KERAS_BACKEND` or keras.json.
Without a choice it is tensorflow, as in Keras itself, or torch where tensorflow is not installed.
"""

from __future__ import annotations

import importlib.util
import os
import sys

if importlib.util.find_spec("keras") is None:
    raise ImportError(
        "mmfusion.segmentation needs Keras 3, which is not installed. "
        'Run: pip install "mmfusion[keras]"'
    )
# Import torchvision before Keras, because Keras may import tensorflow. torchvision loads triton.
# triton and tensorflow each bring their own LLVM. If tensorflow's LLVM is loaded first, the process
# dies when an image encoder loads the other one. If tensorflow is imported already, image encoders
# cannot work in this process, and segmentation does not need torchvision.
if "tensorflow" not in sys.modules:
    import torchvision  # noqa: F401

# At its first import, Keras writes "tensorflow" into keras.json, whether that is installed or not.
if "keras" not in sys.modules and importlib.util.find_spec("tensorflow") is None:
    os.environ.setdefault("KERAS_BACKEND", "torch")

try:
    import keras
except ImportError as error:
    raise ImportError(
        f"Keras's backend must be an installed library, got {error.name or error} "
        f"(KERAS_BACKEND={os.environ.get('KERAS_BACKEND', '')!r}). "
        "Set KERAS_BACKEND=torch, or install it."
    ) from error
if keras.version() < "3":
    raise ImportError(
        f"mmfusion.segmentation needs Keras 3, got {keras.version()}. "
        'Run: pip install "mmfusion[keras]"'
    )
