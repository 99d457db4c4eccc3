"""The training of a U-Net on lung masks with Keras: augmented, resumable and reproducible."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

# Imported before Keras. mmfusion/segmentation/__init__.py gives the reason.
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


@final
@dataclass(frozen=True)
class Recipe:
    """The settings with which a segmenter is trained.

    Attributes:
        width: the channels of the U-Net's first level.
        depth: how often the U-Net halves the side lengths.
        patch_size: the side, in pixels, of the squares that become one input position each.
        max_width: the largest number of channels of a level.
        dropout: the dropout on the deepest level.
        loss: "dice", "bce_dice" or "focal".
        augmentation: the strength of the changes to the training X-rays, within [0, 1]. 1 suits
            X-rays of other hospitals.
        negatives: the share of training samples that are replaced by pictures that are no X-rays.
        epochs: passes over the training X-rays.
        batch_size: X-rays per step.
        learning_rate: the highest learning rate. It is reached after a twentieth of the steps, and
            then falls along a cosine to 0.
        weight_decay: the weight decay of AdamW.
        bf16: whether to compute in bfloat16. Weights and probabilities stay float32.
        seed: the seed of the first weights, the order and the augmentation.
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


@final
class AugmentedBatches(keras.utils.PyDataset):
    """The batches of an epoch, augmented anew in each epoch.

    Their content follows from the seed, the epoch and the numbers of the samples alone.
    """

    def __init__(self, pixels: Pixels, masks: Masks, recipe: Recipe):
        # One worker only: several would start the next epoch before `epoch` is updated.
        super().__init__(workers=1)
        self.pixels, self.masks, self.recipe = pixels, masks, recipe
        self.epoch = 0
        self._augment = Augmentation(recipe.seed, recipe.augmentation, recipe.negatives)

    def __len__(self) -> int:
        return -(-len(self.pixels) // self.recipe.batch_size)

    def __getitem__(self, number: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        epoch = self.epoch
        # The order follows from the epoch, so that a resumed training sees the same batches.
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
    """Returns the trained segmenter and its learning curves.

    A stopped training continues at its last complete epoch.

    Args:
        recipe: the settings of the training.
        train_pairs: X-rays and masks, as `load_pairs` returns them.
        validation_pairs: X-rays and masks for Dice and loss after each epoch. They do not choose an
            epoch.
        folder: where the state of an unfinished training, the curves (`curves.csv`) and the weights
            (`model.keras`) are written. Each recipe and training set has a subfolder of its own.
        verbose: 1 shows the progress bar of Keras, 2 one line per epoch, 0 nothing.
    """
    folder = _run_folder(recipe, train_pairs, folder)
    curves = folder / "curves.csv"
    if (folder / "model.keras").exists():
        model = keras.saving.load_model(folder / "model.keras", compile=False)
        return model, _read_curves(curves)
    data = AugmentedBatches(*train_pairs, recipe)
    model = _compiled(recipe, len(data) * recipe.epochs)

    def begin(epoch: int, logs: Any) -> None:
        data.epoch = epoch
        for layer in model.layers:
            if isinstance(layer, keras.layers.SpatialDropout2D):
                # Keras does not save how many random numbers a dropout layer has drawn. It draws
                # one per step.
                layer.seed_generator.state.assign([recipe.seed, epoch * len(data)])

    validation: Any = None
    if validation_pairs is not None:
        validation = (validation_pairs[0], validation_pairs[1].astype(np.float32))
    model.fit(
        data,
        epochs=recipe.epochs,
        # `AugmentedBatches` shuffles by itself. The state of Keras's shuffling would not be saved.
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
    # Renamed only when complete, because `model.keras` marks a finished training.
    partial = folder / "partial.keras"
    model.save(partial)
    partial.replace(folder / "model.keras")
    return model, _read_curves(curves)


def _run_folder(recipe: Recipe, train_pairs: tuple[Pixels, Masks], folder: Path) -> Path:
    """Returns the subfolder of one recipe and training set, which is made if it is missing."""
    # Its name is a hash of all that decides the weights, so that no other model is taken for it.
    described = json.dumps(
        [
            backend(),
            asdict(recipe),
            [hashlib.sha256(part.tobytes()).hexdigest() for part in train_pairs],
        ]
    )
    folder = folder / hashlib.sha256(described.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _compiled(recipe: Recipe, steps: int) -> UNetSegmenter:
    """Returns a new segmenter that is ready for a training of this many steps."""
    # The seed decides the first weights, so it is set before the model is made.
    keras.utils.set_random_seed(recipe.seed)
    model = UNetSegmenter(
        recipe.width,
        recipe.depth,
        patch_size=recipe.patch_size,
        max_width=recipe.max_width,
        dropout=recipe.dropout,
        dtype="mixed_bfloat16" if recipe.bf16 else "float32",
    )
    schedule = keras.optimizers.schedules.CosineDecay(
        recipe.learning_rate / 100,
        steps - steps // 20,
        warmup_target=recipe.learning_rate,
        warmup_steps=steps // 20,
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=recipe.weight_decay, clipnorm=1.0)
    model.compile(optimizer, loss=segmentation_loss(recipe.loss), metrics=[DiceScore()])
    return model


def _read_curves(path: Path) -> dict[str, list[float]]:
    """Returns the value of each epoch, by the name of the metric."""
    # A run that was stopped before its state was saved repeats an epoch. The last line of an epoch
    # counts.
    table = np.genfromtxt(path, delimiter=",", names=True, ndmin=1)
    last = {int(row["epoch"]): row for row in table}
    return {
        name: [float(last[epoch][name]) for epoch in sorted(last)]
        for name in table.dtype.names or ()
        if name != "epoch"
    }


def backend() -> str:
    """Returns the name of the backend that Keras uses."""
    return str(keras.backend.backend())


def predicted(model: UNetSegmenter, pixels: Pixels, batch_size: int = 32) -> Pixels:
    """Returns the probabilities of lung, float32 [B, H, W], computed as in `LungSegmenter`."""
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
    """Writes the files that `LungSegmenter` reads.

    These are the weights in half precision, and the usual shapes of the masks of real X-rays.

    Args:
        model: a segmenter that was trained on these X-rays.
        recipe: the settings of its training.
        pixels: X-rays. Each is segmented `views` times with new augmentation, because other
            hospitals frame the chest differently.
        folder: where `lungs.weights.h5` and `lungs.json` are written.
        views: how often each X-ray is segmented.
        share: the share of the views that must count as frontal chest X-rays.
    """
    # Another seed than in training, so that the model has not seen these views.
    augment = Augmentation(recipe.seed + 1)
    shapes = []
    # The augmentation needs a mask, which is not used here.
    whole = np.ones((*pixels.shape[1:3], 1), bool)
    for view in range(views):
        augmented = np.stack(
            [augment(image, whole, view, number)[0] for number, image in enumerate(pixels)]
        )
        shapes += [
            shape
            for probability in predicted(model, augmented)
            if (shape := features(probability)) is not None
        ]
    folder.mkdir(parents=True, exist_ok=True)
    # In float32, so that the file does not depend on the precision of the training.
    full = UNetSegmenter.from_config(model.get_config() | {"dtype": "float32", "name": "lungs"})
    full.set_weights(model.get_weights())
    save_half(full, folder / "lungs.weights.h5")
    card = {
        "model": full.get_config() | {"dtype": "float32"},
        "recipe": asdict(recipe),
        "plausibility": Plausibility.fitted(shapes, share).to_json(),
    }
    (folder / "lungs.json").write_text(json.dumps(card, indent=1), encoding="utf-8")
