"""A worker that loads segmenters which another backend saved, and stores their answers.

Usage: python unet_answers.py FOLDER FILE...
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np

from mmfusion import UNetSegmenter


def main(folder, names):
    inputs = np.load(folder / "inputs.npy")
    for name in names:
        if name.endswith(".keras"):
            model = keras.saving.load_model(folder / name)
        else:
            model = UNetSegmenter.from_config(json.loads((folder / "config.json").read_text()))
            model.load_weights(folder / name)
        np.save(
            folder / f"{name}.{keras.backend.backend()}.npy",
            keras.ops.convert_to_numpy(model(inputs)),
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
