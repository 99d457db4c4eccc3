"""The collator, which turns rows of a dataset into a batch, and repeatable augmentation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import datasets
import numpy as np
import torch
from PIL import Image

from ..model.facts import look
from ..model.images import load_image
from ..model.modalities import describes_itself
from .labels import label_tensor

Augment = Callable[[Image.Image, np.random.Generator], Image.Image]


@final
class Augmented(torch.utils.data.Dataset[dict[str, Any]]):
    """A dataset whose rows also have "seed", "epoch" and "index".

    `FusionCollator` seeds the augmentation of a row with these three numbers. Accelerate and the
    Trainer call `set_epoch`. The epoch lies in shared memory, so persistent workers see its
    changes. A Trainer needs the option `remove_unused_columns=False`.

    Args:
        dataset: the rows. It must not have any of the three columns yet.
        seed: a whole number of at least 0. Another seed gives other augmentations.

    Raises:
        ValueError: if the seed is negative or one of the columns exists already.

    Example:
        >>> rows = Augmented(datasets.Dataset.from_dict({"text": ["a", "b"]}), seed=3)
        >>> rows.set_epoch(1)
        >>> rows[-1]
        {'text': 'b', 'seed': 3, 'epoch': 1, 'index': 1}
    """

    ADDED = ("seed", "epoch", "index")

    def __init__(self, dataset: datasets.Dataset, seed: int = 0) -> None:
        taken = [name for name in self.ADDED if name in dataset.column_names]
        if taken:
            raise ValueError(
                f"dataset must be without columns named {', '.join(self.ADDED)}, got {taken!r}. "
                "Rename them with dataset.rename_column."
            )
        self.dataset = dataset
        self.seed = _whole("seed", seed)
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def column_names(self) -> list[str]:
        """The names of the dataset's columns and of the three added ones."""
        return [*self.dataset.column_names, *self.ADDED]

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, on which the augmentations depend.

        Args:
            epoch: a whole number of at least 0.

        Raises:
            ValueError: if it is negative.
        """
        self._epoch.fill_(_whole("epoch", epoch))

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns the row at `index` with the three added columns; -1 is the last row."""
        place = range(len(self))[index]
        return {**self.dataset[place], "seed": self.seed, "epoch": int(self._epoch), "index": place}


@final
class FusionCollator:
    """The collator: it turns rows of a dataset into one batch.

    A batch holds the tensors of the processor, the labels and the `facts` (`BatchFacts`). Pictures
    are decoded here. `labels` is int64 [B], or float32 [B, C] if the rows' labels are lists. A
    batch of rows without labels has no `labels`. A column that no row has is not passed to the
    processor.

    Args:
        processor: called as `processor(images=[...], text=[...])`, with None where a row has no
            value. It returns a mapping of tensors.
        augment: called as `augment(image, rng)`, returns another picture. It is called only for the
            rows of an `Augmented` dataset, so the rows of an evaluation stay unchanged. The
            generator is seeded with the row's (seed, epoch, index), and with the place of the
            picture if the row has a list of them, so the number of workers changes nothing. None:
            no augmentation.

    Raises:
        TypeError: if `augment` returns something other than a PIL image.
        ValueError: if it is called on no row, on rows with neither `image` nor `text`, or on labels
            that differ in kind.

    Shape:
        that of the processor: pixel_values [B, C, H, W], input_ids and attention_mask [B, L],
        image_present and text_present [B]; labels [B] or [B, C]. With lists of pictures:
        pixel_values [B, V, C, H, W] and image_present [B, V].

    Example:
        >>> def count_words(text):
        ...     return {"words": torch.tensor([len((one or "").split()) for one in text])}
        >>> rows = [{"text": "clear lungs", "label": 1}, {"text": None, "label": 0}]
        >>> FusionCollator(count_words)(rows)
        {'words': tensor([2, 0]), 'labels': tensor([1, 0])}
    """

    def __init__(
        self,
        processor: Callable[..., Mapping[str, torch.Tensor]],
        *,
        augment: Augment | None = None,
    ) -> None:
        self.processor = processor
        self.augment = augment

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Returns the batch of these rows."""
        inputs: dict[str, list[Any]] = {}
        if any("image" in row for row in rows):
            inputs["images"] = [self._pictures(row) for row in rows]
        if any("text" in row for row in rows):
            inputs["text"] = [row.get("text") for row in rows]
        if not inputs:
            columns = list(dict.fromkeys(name for row in rows for name in row))
            raise ValueError(
                f"rows must be one or more rows with an 'image' or a 'text', got {len(rows)} with "
                f"the columns {columns!r}. "
                "With a Trainer, set remove_unused_columns=False."
            )
        batch: dict[str, Any] = dict(self.processor(**inputs))
        if any("label" in row for row in rows):
            batch["labels"] = label_tensor([row.get("label") for row in rows])
        if describes_itself(batch):
            # Read the numbers here, where the tensors lie on the host. Once they are on a device,
            # the host has to wait for each number that it reads from them.
            batch["facts"] = look(batch)
        return batch

    def _pictures(self, row: Mapping[str, Any]) -> Any:
        """Returns the picture of a row, a list of them where the row has a list, or None."""
        source = row.get("image")
        if not isinstance(source, (list, tuple)):
            return self._picture(source, row, ())
        return [self._picture(one, row, (place,)) for place, one in enumerate(source)]

    def _picture(
        self, source: Any, row: Mapping[str, Any], place: tuple[int, ...]
    ) -> Image.Image | None:
        """Returns a decoded picture; `place` is its number in a list of pictures."""
        if source is None:
            return None
        picture = load_image(source)
        # Only the rows of an `Augmented` dataset have an epoch.
        if self.augment is None or "epoch" not in row:
            return picture
        seeds = [row["seed"], row["epoch"], row["index"], *place]
        changed = self.augment(picture, np.random.default_rng(seeds))
        if not isinstance(changed, Image.Image):
            raise TypeError(
                "augment must be a function that returns a PIL image, "
                f"got {type(changed).__name__} for {source!r}. "
                "Turn arrays into pictures with PIL.Image.fromarray."
            )
        return changed


def _whole(name: str, value: object) -> int:
    # bool is a subclass of int, but True as a seed is a mistake of the caller.
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(
            f"{name} must be a whole number of at least 0, got {value!r}. Count from 0."
        )
    return value
