"""The X-rays with lung masks of three collections, and their augmentation in training.

Montgomery's archive has the X-rays in `CXR_png/`, such as `MCUCXR_0001_0.png`. It has one mask per
lung in `ManualMask/leftMask/` and `ManualMask/rightMask/`, under the X-ray's name. The layouts of
the other two collections are described in `shenzhen.py` and `covid_cxr.py`.

Reference: Montgomery and Shenzhen: Jaeger et al. 2014, Quantitative Imaging in Medicine and Surgery
4(6); Shenzhen's masks: Stirenko et al. 2018 (arXiv 1803.01199); COVID: Cohen et al. 2020 (arXiv
2006.11988), masks by v7labs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import final

import covid_cxr
import numpy as np
import shenzhen
import torch
from einops import rearrange
from manifests import existing_folder, some
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms.v2 import functional

from mmfusion import load_image
from mmfusion.segmentation.pixels import standardized

Pixels = NDArray[np.float32]
Masks = NDArray[np.bool_]


@final
@dataclass(frozen=True, slots=True)
class LungSample:
    """One X-ray with its lung masks.

    Attributes:
        uid: the name of the X-ray.
        image: the file of the X-ray.
        masks: the files of the masks. The lungs are the union of the masks.
        source: "shenzhen", "montgomery" or "covid".
        group: the patient.
    """

    uid: str
    image: Path
    masks: tuple[Path, ...]
    source: str
    group: str


def read_shenzhen(folder: str | Path, masks: str | Path | None = None) -> list[LungSample]:
    """Returns the Shenzhen X-rays that have a mask (566 in the published set).

    Args:
        folder: the folder, as for `shenzhen.read`.
        masks: the folder of the masks, if it is not inside the other folder.

    Raises:
        ValueError: if the folder is not what `shenzhen.read` expects, or none of its X-rays has a
            mask.
    """
    cases = shenzhen.read(folder, masks).cases
    return _some(
        [
            LungSample(case.uid, case.image, (case.mask,), "shenzhen", case.uid)
            for case in cases
            if case.mask is not None
        ],
        folder,
    )


def read_montgomery(folder: str | Path) -> list[LungSample]:
    """Returns the Montgomery X-rays (138 in the published set), each with one mask per lung.

    Args:
        folder: the unpacked archive, or the folder above it.

    Raises:
        ValueError: if there is no X-ray in `CXR_png`, or a mask is missing.
    """
    place = existing_folder(folder, "folder")
    if not (place / "CXR_png").is_dir():
        place /= "MontgomerySet"
    samples, missing = [], []
    for image in sorted((place / "CXR_png").glob("*.png")):
        masks = tuple(
            place / "ManualMask" / side / image.name for side in ("leftMask", "rightMask")
        )
        missing += [str(mask.relative_to(place)) for mask in masks if not mask.is_file()]
        # The set has one X-ray per patient, so its name stands for the patient.
        samples.append(LungSample(image.stem, image, masks, "montgomery", image.stem))
    if missing:
        raise ValueError(
            f"ManualMask must hold a mask per lung, got none at {some(missing)}. "
            "Unpack the whole archive."
        )
    return _some(samples, folder)


def read_covid(folder: str | Path) -> list[LungSample]:
    """Returns the frontal X-rays of the COVID set that have a mask (205 in the small copy).

    The masks follow another protocol than the two other sets: they include the part of the lungs
    behind the heart.

    Args:
        folder: the folder, as for `covid_cxr.read`.

    Raises:
        ValueError: if the folder is not what `covid_cxr.read` expects, or none of its X-rays has a
            mask.
    """
    rows = covid_cxr.read(folder).rows
    rows = rows[rows["mask"].notna()]
    return _some(
        [
            LungSample(Path(image).stem, Path(image), (Path(mask),), "covid", str(group))
            for image, mask, group in rows[["image", "mask", "group"]].itertuples(
                index=False, name=None
            )
        ],
        folder,
    )


def _some(samples: list[LungSample], folder: str | Path) -> list[LungSample]:
    """Returns the samples if there are any."""
    if not samples:
        raise ValueError(
            f"folder must hold X-rays with lung masks, got none in {str(folder)!r}. Check the path."
        )
    return samples


def load_pairs(samples: Sequence[LungSample], size: int = 256) -> tuple[Pixels, Masks]:
    """Returns the X-rays and the masks of all samples, stretched to squares of one size.

    The X-rays are float32 [B, H, W, 1], as `standardized` returns them. The masks are bool
    [B, H, W, 1].

    Args:
        samples: the X-rays to read.
        size: the side of the square, in pixels.

    Raises:
        ValueError: if a picture cannot be read, or a mask does not have the shape of its X-ray.
    """
    # Threads, because reading and decoding files release the interpreter lock.
    with ThreadPoolExecutor(4) as pool:
        pairs = list(pool.map(lambda sample: _pair(sample, size), samples))
    return np.stack([pixels for pixels, _ in pairs])[..., None], np.stack(
        [mask for _, mask in pairs]
    )[..., None]


def _pair(sample: LungSample, size: int) -> tuple[Pixels, Masks]:
    picture = load_image(sample.image).convert("L")
    union = np.zeros((size, size), dtype=bool)
    for path in sample.masks:
        mask = load_image(path).convert("L")
        # Stretching would hide that a mask belongs to another picture.
        if abs(mask.width / mask.height - picture.width / picture.height) > 0.02:
            raise ValueError(
                f"{path} must have the shape of its X-ray, {picture.size}, got {mask.size}. "
                "Fetch both again."
            )
        # Area averages with a threshold of one half keep the outline in place. Nearest neighbours
        # would shift it.
        union |= np.asarray(mask.resize((size, size), Image.Resampling.BOX)) > 127
    return standardized(np.asarray(picture.resize((size, size), Image.Resampling.BOX))), union


@final
class Augmentation:
    """The random changes of X-rays in training, which prepare a model for another hospital.

    They imitate other positions, postures, apertures, exposures and detectors.

    Args:
        seed: the seed. Together with the epoch and the sample's number it decides the change of a
            sample, so that the number of workers does not matter.
        strength: the range of the changes, within [0, 1]. 1 suits X-rays of other hospitals, a
            smaller value X-rays like those of the training. Mirroring does not depend on it.
        negatives: the share of samples, within [0, 1], that are replaced by a picture that is no
            X-ray, with an empty mask. From these the model learns to find no lungs in a photograph.
    """

    def __init__(self, seed: int = 0, strength: float = 1.0, negatives: float = 0.0):
        for name, share in (("augmentation", strength), ("negatives", negatives)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be within [0, 1], got {share!r}.")
        self.seed, self.strength, self.negatives = seed, strength, negatives

    def __call__(
        self, pixels: Pixels, mask: Masks, epoch: int, index: int
    ) -> tuple[Pixels, NDArray[np.float32]]:
        """Returns the changed X-ray and its mask, both float32 [H, W, 1].

        Args:
            pixels: the X-ray [H, W, 1].
            mask: its mask [H, W, 1].
            epoch: the number of the epoch.
            index: the number of the sample.
        """
        # A new generator for each sample: its change does not depend on other samples.
        draw = np.random.default_rng((self.seed, epoch, index))
        if draw.random() < self.negatives:
            return standardized(no_xray(pixels[..., 0], draw))[..., None], np.zeros(
                mask.shape, np.float32
            )
        # X-ray and mask in one tensor, so that both are moved in the same way.
        both = torch.from_numpy(np.stack([pixels[..., 0], mask[..., 0]]).astype(np.float32))
        if draw.random() < 0.5:
            both = functional.horizontal_flip(both)
        image, target = _placed(_rescaled(both, draw, self.strength), draw, self.strength).numpy()
        return _exposed(image, draw, self.strength)[..., None], (target > 0.5).astype(np.float32)[
            ..., None
        ]


def no_xray(pixels: Pixels, draw: np.random.Generator) -> Pixels:
    """Returns a picture [H, W] that is no X-ray.

    It shows the shuffled tiles of an X-ray, noise of a random grain, or random shapes.
    """
    height, width = pixels.shape
    kind = draw.integers(3)
    if kind == 0:
        tiles = int(draw.integers(3, 9))
        side = height // tiles, width // tiles
        cut = rearrange(
            pixels[: side[0] * tiles, : side[1] * tiles],
            "(i h) (j w) -> (i j) h w",
            h=side[0],
            w=side[1],
        )
        shuffled = rearrange(cut[draw.permutation(len(cut))], "(i j) h w -> (i h) (j w)", i=tiles)
        return _stretched(shuffled, height, width)
    if kind == 1:
        grain = 2 ** int(draw.integers(0, 7))
        return _stretched(
            draw.random((max(2, height // grain), max(2, width // grain)), dtype=np.float32),
            height,
            width,
        )
    rows, columns = np.mgrid[:height, :width]
    picture = np.full((height, width), draw.random(), np.float32)
    for _ in range(int(draw.integers(1, 25))):
        y, x, a, b, angle = draw.uniform(
            (0, 0, 5, 5, 0), (height, width, height / 2, width / 2, math.pi)
        )
        # Coordinates along the two axes of an ellipse or rectangle that is turned by `angle`.
        u = (rows - y) * math.cos(angle) + (columns - x) * math.sin(angle)
        v = (columns - x) * math.cos(angle) - (rows - y) * math.sin(angle)
        inside = (
            (u / a) ** 2 + (v / b) ** 2 < 1 if draw.random() < 0.5 else (abs(u) < a) & (abs(v) < b)
        )
        picture[inside] = draw.random() + 0.2 * draw.normal() * (u / a)[inside]
    return picture + draw.normal(0, draw.uniform(0, 0.1), picture.shape).astype(np.float32)


def _stretched(picture: Pixels, height: int, width: int) -> Pixels:
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def _rescaled(both: torch.Tensor, draw: np.random.Generator, strength: float) -> torch.Tensor:
    """Returns X-ray and mask with another aperture and aspect: cropped, or with a black border."""
    height, width = both.shape[-2:]
    # Drawn on a log scale, so that enlarging and reducing are equally likely.
    scale = math.exp(strength * draw.uniform(math.log(0.72), math.log(1.4)))
    aspect = math.exp(strength * draw.uniform(-0.15, 0.15))
    rows, columns = round(height / scale * aspect), round(width / scale / aspect)
    top, left = (
        round(draw.uniform(min(0, have - want), max(0, have - want)))
        for have, want in ((height, rows), (width, columns))
    )
    rescaled: torch.Tensor = functional.resized_crop(
        both, top, left, rows, columns, [height, width], antialias=True
    )
    return rescaled


def _placed(both: torch.Tensor, draw: np.random.Generator, strength: float) -> torch.Tensor:
    """Returns X-ray and mask turned, shifted and sheared, as of a patient who stands askew."""
    height, width = both.shape[-2:]
    placed: torch.Tensor = functional.affine(
        both,
        angle=strength * float(np.clip(draw.normal(0, 6), -20, 20)),
        translate=[round(strength * draw.uniform(-0.08, 0.08) * side) for side in (width, height)],
        scale=1.0,
        shear=[strength * float(shear) for shear in draw.uniform(-4, 4, 2)],
        interpolation=functional.InterpolationMode.BILINEAR,
    )
    return placed


def _exposed(pixels: Pixels, draw: np.random.Generator, strength: float) -> Pixels:
    """Returns the X-ray with another exposure, contrast, sharpness and noise, within [0, 1]."""
    # A power changes the exposure and keeps black and white where they are.
    pixels = np.clip(pixels, 0, 1) ** math.exp(strength * draw.uniform(-0.7, 0.7))
    if draw.random() < 0.2 * strength:
        # The software of some detectors raises the contrast in this way.
        levels = torch.from_numpy((pixels * 255).astype(np.uint8))[None]
        share = draw.uniform(0.3, 1)
        pixels = (1 - share) * pixels + share * functional.equalize(levels)[0].numpy() / 255
    contrast, brightness = (
        1 + strength * draw.uniform(-0.4, 0.4),
        strength * draw.uniform(-0.15, 0.15),
    )
    pixels = (pixels - pixels.mean()) * contrast + pixels.mean() + brightness
    if draw.random() < 0.3 * strength:
        # A brightness gradient across the picture, as from an uneven exposure.
        height, width = pixels.shape
        ramp = (
            np.linspace(-1, 1, height)[:, None] * draw.normal()
            + np.linspace(-1, 1, width)[None] * draw.normal()
        )
        pixels = pixels + np.float32(0.15) * ramp.astype(np.float32)
    if draw.random() < 0.3 * strength:
        sigma = draw.uniform(0.4, 1.5)
        pixels = functional.gaussian_blur(
            torch.from_numpy(pixels)[None].float(), [7, 7], [sigma, sigma]
        )[0].numpy()
    if draw.random() < 0.5 * strength:
        pixels = pixels + draw.normal(0, draw.uniform(0.005, 0.06), pixels.shape).astype(np.float32)
    if draw.random() < 0.3 * strength:
        # Patches of one brightness stand for cables, markers, pacemakers and labels.
        for _ in range(int(draw.integers(1, 4))):
            height, width = (int(draw.integers(4, 40)) for _ in range(2))
            top, left = (
                int(draw.integers(0, pixels.shape[0] - height)),
                int(draw.integers(0, pixels.shape[1] - width)),
            )
            pixels[top : top + height, left : left + width] = draw.random()
    if draw.random() < 0.1 * strength:
        # Some files are stored inverted, with black bones.
        pixels = 1 - pixels
    return standardized(pixels) if draw.random() < 0.7 else np.clip(pixels, 0, 1).astype(np.float32)
