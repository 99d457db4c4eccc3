"""Batches for classifiers of any kind, and copies with other padding or damaged inputs."""

import torch
from torch import Tensor, nn

from ..model.encoder_text import TextEncoder
from ..model.modeling import FusionClassifier

Batch = dict[str, Tensor]


# Padding tokens get this offset. An embedding that reads one of them raises an error.
_OUTSIDE_VOCABULARY = 10**6


def tiny_batch(
    model: FusionClassifier,
    batch: int = 4,
    *,
    missing: bool = True,
    windows: int = 1,
    seed: int = 0,
) -> Batch:
    """Returns inputs and labels for `model`: noise as pixels, and random tokens of random lengths.

    They are on the device of the model.

    Args:
        model: the classifier; it tells the sizes, the vocabulary and the number of labels.
        batch: the number of samples B, at least 1.
        missing: whether the first sample lacks its image and the second its text; a classifier of
            one modality lacks nothing. Where the classifier takes several pictures, samples lack
            some of them in any case.
        windows: the most windows of a text; 1 means texts without an axis of windows.
        seed: the seed of all random draws.
    """
    draw = torch.Generator().manual_seed(seed)
    data: Batch = {}
    views = (model.config.num_views,) if model.config.num_views > 1 else ()
    if model.image_encoder is not None:
        spec = model.image_encoder.input_spec
        shape = (batch, *views, spec["channels"], *spec["size"])
        data["pixel_values"] = torch.randn(shape, generator=draw)
        data["image_present"] = torch.ones(batch, *views, dtype=torch.bool)
    if views:
        # Each sample keeps another one of its pictures, and perhaps more.
        kept = torch.arange(batch)[:, None] % views[0] == torch.arange(views[0])
        data["image_present"] = kept | (torch.rand(batch, *views, generator=draw) < 0.5)
    if model.text_encoder is not None:
        longest = 7
        shape = (batch, *([windows] if windows > 1 else []))
        lengths = torch.randint(2, longest + 1, shape, generator=draw)
        if windows > 1:
            # The first text has one window, the next one two, and so on.
            there = torch.arange(windows) <= torch.arange(batch)[:, None] % windows
            lengths = lengths * there
        data["attention_mask"] = (torch.arange(longest) < lengths[..., None]).long()
        ids = torch.randint(2, _vocabulary(model), (*shape, longest), generator=draw)
        data["input_ids"] = torch.where(data["attention_mask"].bool(), ids, 0)
        data["text_present"] = torch.ones(batch, dtype=torch.bool)
    if missing and len(model.modalities) == 2:
        data["image_present"][:1] = False
        data["text_present"][1:2] = False
    classes = int(model.config.num_labels or 0)
    if model.multi_label:
        labels = torch.randint(0, 2, (batch, classes), generator=draw).float()
        # NaN stands for an unknown label, which the loss must leave out.
        labels[0, 0] = float("nan")
    else:
        labels = torch.arange(batch) % classes
    return {name: value.to(model.device) for name, value in (data | {"labels": labels}).items()}


def repadded(batch: Batch, *, side: str = "right", extra: int = 0, seed: int = 0) -> Batch:
    """Returns the batch with new padding: random tokens, some of them outside the vocabulary.

    Args:
        batch: a batch with `input_ids` and `attention_mask` [B, L].
        side: the side of the padding, "left" or "right".
        extra: the number of columns added to L.
        seed: the seed of the tokens in the padding.

    Example:
        >>> import torch
        >>> ids, mask = torch.tensor([[5, 6, 0]]), torch.tensor([[1, 1, 0]])
        >>> batch = {"input_ids": ids, "attention_mask": mask}
        >>> repadded(batch, side="left", extra=1)["attention_mask"]
        tensor([[0, 0, 1, 1]])
    """
    draw = torch.Generator().manual_seed(seed)
    *axes, width = batch["input_ids"].shape
    width += extra
    own_ids, own_mask = (batch[n].flatten(0, -2) for n in ("input_ids", "attention_mask"))
    ids = torch.randint(0, 9, (len(own_ids), width), generator=draw)
    ids[:, ::2] += _OUTSIDE_VOCABULARY
    mask = torch.zeros(len(own_ids), width, dtype=own_mask.dtype)
    for row in range(len(own_ids)):
        real = own_ids[row][own_mask[row].bool()]
        start = width - len(real) if side == "left" else 0
        ids[row, start : start + len(real)] = real
        mask[row, start : start + len(real)] = 1
    padded = {"input_ids": ids.unflatten(0, axes), "attention_mask": mask.unflatten(0, axes)}
    return batch | {name: value.to(own_ids.device) for name, value in padded.items()}


def with_longer_text(batch: Batch, encoder: TextEncoder | None, more: int = 5) -> Batch:
    """Returns the batch with one more sample, whose text is longer than all others.

    Args:
        batch: a batch with `input_ids` and `attention_mask` [B, L].
        encoder: the text encoder, which may limit the length.
        more: the number of tokens by which the text is longer than L.
    """
    mask, ids = batch["attention_mask"], batch["input_ids"]
    limit = None if encoder is None else encoder.max_length
    width = ids.shape[-1] + more if limit is None else min(ids.shape[-1] + more, limit)
    # The tokens are drawn from the batch, because these are in the vocabulary of any model.
    known = ids[mask.bool()]
    text = known.repeat(width)[:width].expand(1, *ids.shape[1:-1], width)
    added = {name: value[-1:] for name, value in batch.items()}
    added |= {"input_ids": text, "attention_mask": torch.ones_like(text).to(mask.dtype)}
    if "text_present" in batch:
        added["text_present"] = torch.ones_like(added["text_present"])
    places = (0, width - ids.shape[-1])
    padded = batch | {
        "input_ids": torch.nn.functional.pad(ids, places),
        "attention_mask": torch.nn.functional.pad(mask, places),
    }
    return {name: torch.cat([value, added[name]]) for name, value in padded.items()}


def corrupted(batch: Batch, seed: int = 0) -> Batch:
    """Returns the batch with other contents in the inputs of absent images and texts.

    The pixels of absent pictures become NaN. Absent texts get random tokens that the mask marks as
    real.

    Args:
        batch: a batch of two modalities with `image_present` and `text_present`.
        seed: the seed of the tokens.
    """
    draw = torch.Generator().manual_seed(seed)
    no_image, no_text = ~batch["image_present"], ~batch["text_present"]
    pixels, ids, mask = (
        batch[name].clone() for name in ("pixel_values", "input_ids", "attention_mask")
    )
    pixels[no_image] = float("nan")
    # The tokens are drawn from the batch, because these are in the vocabulary of any model.
    tokens = ids[mask.bool()]
    others = torch.randint(0, len(tokens), ids.shape, generator=draw).to(ids.device)
    ids[no_text] = tokens[others][no_text]
    mask[no_text] = 1
    return batch | {"pixel_values": pixels, "input_ids": ids, "attention_mask": mask}


def _vocabulary(model: FusionClassifier) -> int:
    """Returns the number of token ids of the text tower.

    A tower that does not tell the number has the size of its first embedding.
    """
    assert model.text_encoder is not None
    tables = [
        module.num_embeddings
        for module in model.text_encoder.modules()
        if isinstance(module, nn.Embedding)
    ]
    return model.text_encoder.vocab_size or tables[0]
