"""The writer of float16 weights files.

Such a `.weights.h5` takes half the space, and Keras loads it like any other.
"""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import keras
import numpy as np


def save_half(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Writes a model's weights in half precision.

    Args:
        model: any Keras model with float32 weights.
        path: the path of the file, which ends in .weights.h5.
    """
    whole = Path(path).with_name("whole.weights.h5")
    model.save_weights(whole)
    # The float16 weights go into a second file, because HDF5 does not free the space of deleted
    # data.
    with h5py.File(whole) as source, h5py.File(path, "w") as target:

        def copy(name: str, item: h5py.Group | h5py.Dataset) -> None:
            if isinstance(item, h5py.Dataset):
                values = np.asarray(item)
                made = target.create_dataset(
                    name, data=values.astype(np.float16) if values.dtype == np.float32 else values
                )
            else:
                made = target.require_group(name)
            made.attrs.update(item.attrs)

        target.attrs.update(source.attrs)
        source.visititems(copy)
    whole.unlink()
