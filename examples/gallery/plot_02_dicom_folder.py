"""
A folder of DICOM files
=======================

DICOM files are read as they are: rescale, window and inverted grey are applied.
"""

# %%
# Three files of one picture are written here: with a window, inverted, and with neither.

import csv
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from mmfusion import audit, load_image, load_manifest
from mmfusion.serving.phantom import phantom_examples

grey = np.asarray(load_image(phantom_examples()[2][0]).convert("L"), dtype=np.uint16)


def write(path: Path, pixels: np.ndarray, **elements: object) -> None:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.Rows, data.Columns, data.SamplesPerPixel = *pixels.shape, 1
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.PhotometricInterpretation = "MONOCHROME2"
    data.PixelData = pixels.tobytes()
    for name, value in elements.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)


folder = Path(tempfile.mkdtemp())
write(folder / "window.dcm", 4 * grey + 1000, WindowCenter=1510, WindowWidth=1020)
write(folder / "inverted.dcm", 4095 - 16 * grey, PhotometricInterpretation="MONOCHROME1")
write(folder / "plain.dcm", 4 * grey)

# %%
# The table names them as any other picture. ``audit`` opens every file.

with (folder / "samples.csv").open("w", newline="") as file:
    csv.writer(file).writerows(
        [["image", "text", "label", "group"]]
        + [[p.name, p.stem, "effusion", p.stem] for p in sorted(folder.glob("*.dcm"))]
    )
rows = load_manifest(folder / "samples.csv")
print(audit(rows))

# %%
# All three look alike, as they should.

figure, axes = plt.subplots(1, 3, figsize=(9, 3.4))
for axis, row in zip(axes, rows, strict=True):
    axis.imshow(load_image(row["image"]), cmap="gray", vmin=0, vmax=255)
    axis.set_title(Path(row["image"]).name, fontsize=10)
    axis.axis("off")
figure.tight_layout()
