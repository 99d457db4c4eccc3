"""Trains a U-Net on lung masks with Keras: augmented, resumable, the same again for the same seed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Before Keras, for the reason that mmfusion/segmentation/__init__.py gives.
import torchvision  # noqa: F401

# isort: split
import keras
import numpy as np
from numpy.typing import NDArray
from segment_data import Augmentation, Masks, Pixels

from mmfusion import UNetSegmenter
from mmfusion.segmentation.losses import DiceScore, segmentation_loss
from mmfusion.segmentation.lungs import answered
from mmfusion.segmentation.plausibility import Plausibility, features
from mmfusion.segmentation.weights_file import save_half


@dataclass(frozen=True)
class Recipe:
    """How a segmenter is trained.

    Attributes:
        width: channels of the U-Net's first level.
        depth: how often it halves the side lengths.
        patch_size: side of the squares of pixels that it takes in as one position.
        max_width: the most channels of a level.
        dropout: on the deepest level.
        loss: "dice", "bce_dice" or "focal".
        augmentation: how far the training X-rays are changed, within [0, 1]; 1 is for X-rays of
            other hospitals.
        negatives: the share of training samples that are replaced by what is no X-ray.
        epochs: passes over the training X-rays.
        batch_size: X-rays per step.
        learning_rate: the highest; it warms up for a twentieth of the steps, then falls along a
            cosine to 0.
        weight_decay: of AdamW.
        bf16: whether to compute in bfloat16 (weights and probabilities stay float32).
        seed: of the first weights, the order and the augmentation.
    """

    width: int = 24
    depth: int = 4
    patch_size: int = 2
    max_width: int | None = 256
    dropout: float = 0.1
    loss: str = "bce_dice"
    augmentation: float = 1.0
    negatives: float = 1 / 12
    epochs: int = 40
    batch_size: int = 16
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    bf16: bool = True
    seed: int = 0


class AugmentedBatches(keras.utils.PyDataset):
    """The batches of an epoch, augmented anew in each; what they hold follows seed, epoch and sample number alone."""

    def __init__(self, pixels: Pixels, masks: Masks, recipe: Recipe):
        # Not more: Keras's workers run ahead into the next epoch before they are told of it.
        super().__init__(workers=1)
        self.pixels, self.masks, self.recipe = pixels, masks, recipe
        self.epoch = 0
        self._augment = Augmentation(recipe.seed, recipe.augmentation, recipe.negatives)

    def __len__(self) -> int:
        return -(-len(self.pixels) // self.recipe.batch_size)

    def __getitem__(self, number: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        epoch = self.epoch
        order = np.random.default_rng((self.recipe.seed, epoch)).permutation(len(self.pixels))
        indices = order[number * self.recipe.batch_size :][: self.recipe.batch_size]
        pairs = [self._augment(self.pixels[i], self.masks[i], epoch, int(i)) for i in indices]
        return np.stack([pixels for pixels, _ in pairs]), np.stack([mask for _, mask in pairs])


def train(
    recipe: Recipe,
    train_pairs: tuple[Pixels, Masks],
    validation_pairs: tuple[Pixels, Masks] | None,
    folder: Path,
    *,
    verbose: int = 1,
) -> tuple[UNetSegmenter, dict[str, list[float]]]:
    """Returns the trained segmenter and its curves; a training that was stopped goes on from its last whole epoch.

    Args:
        recipe: how to train.
        train_pairs: X-rays and masks, as `load_pairs` gives them.
        validation_pairs: those on which Dice and loss are followed after each epoch; nothing is
            chosen by them.
        folder: for the state of an unfinished training, the curves (`curves.csv`) and the weights
            (`model.keras`), in a folder of their own for each recipe and training set.
        verbose: 1 shows Keras's progress bar, 2 a line per epoch, 0 nothing.
    """
    # A model that was trained otherwise, or on other X-rays, lies in another folder.
    described = json.dumps(
        [
            backend(),
            asdict(recipe),
            [hashlib.sha256(part.tobytes()).hexdigest() for part in train_pairs],
        ]
    )
    folder = folder / hashlib.sha256(described.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    curves = folder / "curves.csv"
    if (folder / "model.keras").exists():
        model = keras.saving.load_model(folder / "model.keras", compile=False)
        return model, _read_curves(curves)
    keras.utils.set_random_seed(recipe.seed)
    model = UNetSegmenter(
        recipe.width,
        recipe.depth,
        patch_size=recipe.patch_size,
        max_width=recipe.max_width,
        dropout=recipe.dropout,
        dtype="mixed_bfloat16" if recipe.bf16 else "float32",
    )
    data = AugmentedBatches(*train_pairs, recipe)
    steps = len(data) * recipe.epochs
    schedule = keras.optimizers.schedules.CosineDecay(
        recipe.learning_rate / 100,
        steps - steps // 20,
        warmup_target=recipe.learning_rate,
        warmup_steps=steps // 20,
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=recipe.weight_decay, clipnorm=1.0)
    model.compile(optimizer, loss=segmentation_loss(recipe.loss), metrics=[DiceScore()])

    def begin(epoch: int, logs: Any) -> None:
        data.epoch = epoch
        for layer in model.layers:
            if isinstance(layer, keras.layers.SpatialDropout2D):
                # Keras does not keep how many random numbers a dropout has drawn: one a step.
                layer.seed_generator.state.assign([recipe.seed, epoch * len(data)])

    validation: Any = None
    if validation_pairs is not None:
        validation = (validation_pairs[0], validation_pairs[1].astype(np.float32))
    model.fit(
        data,
        epochs=recipe.epochs,
        # The order of the batches is the data's own; Keras would shuffle them by a state that is
        # not kept.
        shuffle=False,
        validation_data=validation,
        validation_batch_size=recipe.batch_size,
        verbose=verbose,
        callbacks=[
            keras.callbacks.LambdaCallback(on_epoch_begin=begin),
            keras.callbacks.BackupAndRestore(folder / "unfinished"),
            keras.callbacks.CSVLogger(curves, append=True),
        ],
    )
    partial = folder / "partial.keras"
    model.save(partial)
    partial.replace(folder / "model.keras")
    return model, _read_curves(curves)


def _read_curves(path: Path) -> dict[str, list[float]]:
    # An epoch that ran twice, because the first run was stopped before its state was kept, counts
    # as it ended last.
    table = np.genfromtxt(path, delimiter=",", names=True, ndmin=1)
    last = {int(row["epoch"]): row for row in table}
    return {
        name: [float(last[epoch][name]) for epoch in sorted(last)]
        for name in table.dtype.names or ()
        if name != "epoch"
    }


def backend() -> str:
    """Returns the backend that Keras runs on."""
    return str(keras.backend.backend())


def predicted(model: UNetSegmenter, pixels: Pixels, batch_size: int = 32) -> Pixels:
    """Returns the probability of lung as `LungSegmenter` finds it, float32 [B, H, W]."""
    return np.concatenate(
        [
            answered(model, pixels[start : start + batch_size])
            for start in range(0, len(pixels), batch_size)
        ]
    )


def ship(
    model: UNetSegmenter,
    recipe: Recipe,
    pixels: Pixels,
    folder: Path,
    *,
    views: int = 8,
    share: float = 0.995,
) -> None:
    """Writes the weights in half precision, and what masks of real X-rays look like, as `LungSegmenter` reads them.

    Args:
        model: trained on these X-rays.
        recipe: what it was trained with.
        pixels: X-rays; each is seen `views` times, augmented anew, for other hospitals frame the
            chest otherwise.
        folder: for `lungs.weights.h5` and `lungs.json`.
        views: how often each X-ray is seen.
        share: of the views that shall pass for frontal chest X-rays.
    """
    augment = Augmentation(recipe.seed + 1)
    shapes = []
    whole = np.ones((*pixels.shape[1:3], 1), bool)
    for view in range(views):
        seen = np.stack(
            [augment(image, whole, view, number)[0] for number, image in enumerate(pixels)]
        )
        shapes += [
            shape for found in predicted(model, seen) if (shape := features(found)) is not None
        ]
    folder.mkdir(parents=True, exist_ok=True)
    full = UNetSegmenter.from_config(model.get_config() | {"dtype": "float32", "name": "lungs"})
    full.set_weights(model.get_weights())
    save_half(full, folder / "lungs.weights.h5")
    card = {
        "model": full.get_config() | {"dtype": "float32"},
        "recipe": asdict(recipe),
        "plausibility": Plausibility.fitted(shapes, share).to_json(),
    }
    (folder / "lungs.json").write_text(json.dumps(card, indent=1), encoding="utf-8")
