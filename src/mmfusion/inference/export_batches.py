"""The batches with which an exported graph is traced and compared."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ..model.missing import graph_inputs
from ..model.modalities import MODALITIES
from ..model.modeling import FusionClassifier

TEXT = MODALITIES["text"].encoded
"""The inputs whose last axis is the length of a text."""

PRESENT = tuple(modality.present for modality in MODALITIES.values())
"""The flags of each modality."""


def input_names(model: FusionClassifier) -> tuple[str, ...]:
    """Returns the names of the graph's inputs.

    Args:
        model: the classifier.
    """
    # Flags of presence only with both towers: with one tower, every sample has its modality. Of
    # several pictures, some may be missing.
    encoded = [name for modality in model.modalities for name in MODALITIES[modality].encoded]
    has_views = model.image_encoder is not None and model.config.num_views > 1
    flags = PRESENT if len(model.modalities) == 2 else PRESENT[: int(has_views)]
    return (*encoded, *flags)


def drawn(model: FusionClassifier, *, windows: bool = False) -> Iterator[dict[str, Tensor]]:
    """Yields batches that differ from the traced one.

    They have one sample or more, shorter or longer texts, and samples that lack a modality.

    Args:
        model: the classifier.
        windows: whether texts are in windows.
    """
    # At most 512 tokens, because at ModernBERT's full length the attention scores would fill the
    # memory.
    names, most = input_names(model), min(512, longest(model))
    for seed, (batch, length) in enumerate([(1, 2), (2, most), (5, min(17, most))], start=1):
        made = draw(model, names, batch=batch, length=length, windows=seed * windows, seed=seed)
        if "text_present" in made and batch > 2:
            made["image_present"][0] = False
            made["text_present"][1] = False
        yield made


def draw(
    model: FusionClassifier,
    names: tuple[str, ...],
    *,
    batch: int,
    length: int,
    windows: int = 0,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Returns one random batch of the graph's inputs on the model's device.

    Args:
        model: the classifier.
        names: of the graph's inputs.
        batch: how many samples.
        length: of the texts or windows, in tokens.
        windows: of the texts; 0 means texts without an axis of them.
        seed: of the draws.
    """
    # Drawn on the CPU, so that the batches are the same on every device.
    seeded = torch.Generator().manual_seed(seed)
    views = (model.config.num_views,) if model.config.num_views > 1 else ()
    made: dict[str, Tensor] = {}
    if model.image_encoder is not None:
        spec = model.image_encoder.input_spec
        shape = (batch, *views, spec["channels"], *spec["size"])
        made["pixel_values"] = torch.randn(shape, generator=seeded).to(model.dtype)
    if model.text_encoder is not None:
        shape = (batch, *([windows] if windows else []))
        lengths = torch.randint(1, length + 1, (*shape, 1), generator=seeded)
        # One text has the full length, so that the last column holds a real token.
        lengths[-1] = length
        if windows > 1:
            # Some texts have fewer windows.
            lengths[0, 1:] = 0
        # Every vocabulary has the first ids.
        made["input_ids"] = torch.randint(
            0, min(100, vocabulary(model)), (*shape, length), generator=seeded
        )
        made["attention_mask"] = (torch.arange(length) < lengths).long()
    made |= {name: torch.ones(batch, dtype=torch.bool) for name in PRESENT if name in names}
    if views and "image_present" in names:
        flags = torch.rand(batch, *views, generator=seeded) < 0.7
        # One picture is there of each sample.
        made["image_present"] = flags | (torch.arange(views[0]) == 0)
    return {name: made[name].to(model.device) for name in names}


def completed(
    model: FusionClassifier,
    batch: Mapping[str, Tensor],
    names: tuple[str, ...],
    windows: bool = False,
) -> dict[str, Tensor]:
    """Returns the graph's inputs of a processor's batch, on the model's device.

    Args:
        model: the classifier.
        batch: as a processor makes it.
        names: of the graph's inputs.
        windows: whether the graph takes texts in windows. A batch without long texts has none.

    Raises:
        ValueError: if an input is missing.
    """
    used = [MODALITIES[name] for name in model.modalities]
    lacking = [m.values for m in used if m.values not in batch]
    lacking += [m.mask for m in used if m.mask is not None and m.mask not in batch]
    if lacking:
        raise ValueError(
            f"batches must hold {', '.join(names)}, got one without {', '.join(lacking)}. "
            "Use the model's processor."
        )
    used_inputs = {name: batch[name] for m in used for name in m.processed if name in batch}
    for name in TEXT if windows else ():
        if name in used_inputs and used_inputs[name].ndim == 2:
            used_inputs[name] = used_inputs[name].unsqueeze(1)
    tensors, _ = graph_inputs(model.modalities, used_inputs, model.config.num_views, None)
    types = {"pixel_values": model.dtype}
    types |= dict.fromkeys(TEXT, torch.int64) | dict.fromkeys(PRESENT, torch.bool)
    return {name: tensors[name].to(model.device, types[name]) for name in names}


def longest(model: FusionClassifier) -> int:
    """Returns the text encoder's limit of tokens, or 512 if there is none.

    Args:
        model: the classifier.
    """
    limit = None if model.text_encoder is None else model.text_encoder.max_length
    return 512 if limit is None else limit


def vocabulary(model: FusionClassifier) -> int:
    """Returns the size of the text encoder's vocabulary, or 1 if it is not known.

    Args:
        model: a classifier with a text encoder.
    """
    assert model.text_encoder is not None
    return model.text_encoder.vocab_size or 1
