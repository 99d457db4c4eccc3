"""The laws of the library, one check per law; users import them from `mmfusion.testing`."""

import copy
import itertools
import re
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from ..model.encoder_base import Encoder
from ..model.modeling import FusionClassifier
from .batches import Batch, corrupted, repadded, with_longer_text
from .compare import TOLERANCE, agree, check_same_state, logits_of, mode, picked, state_of

KEY_BIAS = re.compile(r"(^|\.)(key|k|k_lin|k_proj|key_proj|to_k|Wk)\.bias$")
"""The pattern of the names of attention key biases, whose gradient is zero by construction.

A key bias adds the same number to all scores of one query, and the softmax cancels this number.
"""


def check_batch_law(model: FusionClassifier, batch: Batch, *, tolerance: float = TOLERANCE) -> None:
    """Checks that the logits of a sample do not depend on the rest of its batch.

    The batch is compared with its samples one by one, and with itself in reversed and in rotated
    order.
    """
    together = logits_of(model, batch)
    rows = len(together)
    alone = torch.cat([logits_of(model, picked(batch, [row])) for row in range(rows)])
    agree("batch law (alone and in a batch)", together, alone, tolerance)
    # The reversed order moves the samples that lack a modality from the start to the end. The
    # rotation gives each sample another place.
    for order in (list(reversed(range(rows))), [*range(1, rows), 0]):
        agree(
            f"batch law (order {order})",
            together[order],
            logits_of(model, picked(batch, order)),
            tolerance,
        )


def check_padding_law(
    model: FusionClassifier, batch: Batch, *, tolerance: float = TOLERANCE
) -> None:
    """Checks that the logits do not depend on the padding of the texts.

    The same texts are padded on the left and on the right, with more columns, and with other tokens
    in the padding. Each text is also compared alone, without any padding, and beside a text that is
    longer than all others.
    """
    expected = logits_of(model, batch)
    # Three more columns put some padding behind the longest text too.
    for side, extra in itertools.product(("right", "left"), (0, 3)):
        again = logits_of(model, repadded(batch, side=side, extra=extra, seed=extra))
        agree(f"padding law ({side}, {extra} columns more)", expected, again, tolerance)
    # A text encoder cuts columns without a token and writes its own pad id into the others. So real
    # padding is seen only where a text stands beside a longer one.
    rows = range(len(expected))
    alone = torch.cat([logits_of(model, picked(batch, [row])) for row in rows])
    beside = logits_of(model, with_longer_text(batch, model.text_encoder))[: len(alone)]
    agree("padding law (beside a longer text)", alone, beside, tolerance)


def check_missing_law(
    model: FusionClassifier, batch: Batch, *, tolerance: float = TOLERANCE
) -> None:
    """Checks that the inputs of absent modalities change no logits, and that they cost no compute.

    The contents of the inputs of an absent modality must not change the logits, and the towers must
    compute nothing for them. In a tower the count stops before the first block in which the
    strategy acts, because tokens of the other modality may pass through later blocks. A batch whose
    samples have neither modality must raise a ValueError.
    """
    _check_neither(model, batch)
    if len(model.modalities) < 2:
        return
    expected = logits_of(model, batch)
    agree(
        "missing law (contents of the slot)",
        expected,
        logits_of(model, corrupted(batch)),
        tolerance,
    )
    # A padded empty text has a mask of zeros. Without `text_present`, the model must derive from
    # this mask that the text is absent.
    unmarked = {name: value for name, value in batch.items() if name != "text_present"}
    axes = [1] * (batch["attention_mask"].ndim - 1)
    mask = torch.where(batch["text_present"].view(-1, *axes), batch["attention_mask"], 0)
    agree(
        "missing law (a mask of zeros)",
        expected,
        logits_of(model, unmarked | {"attention_mask": mask}),
        tolerance,
    )
    for modality in model.modalities:
        rows = _present_rows(batch, modality)
        spent = tower_work(model, batch, modality)
        # The work must be the same as for a batch of only those samples that have the modality.
        needed = tower_work(model, picked(batch, rows), modality) if rows else 0
        assert spent == needed, (
            f"missing law: {modality} tower computed {spent} numbers "
            f"where {needed} are of present samples"
        )
        _check_without(model, batch, modality, tolerance)


def _present_rows(batch: Batch, modality: str) -> list[int]:
    """Returns the samples that have a modality; one picture of several is enough."""
    present = batch[f"{modality}_present"]
    rows: list[int] = present.view(len(present), -1).any(1).nonzero().flatten().tolist()
    return rows


def _check_without(model: FusionClassifier, batch: Batch, modality: str, tolerance: float) -> None:
    """Checks a batch whose samples all lack one modality, marked absent or not passed at all."""
    other = "text" if modality == "image" else "image"
    rest = picked(batch, _present_rows(batch, other))
    # No sample is left if the other modality is absent everywhere.
    if not len(rest["labels"]):
        return
    nobody = torch.zeros(len(rest["labels"]), dtype=torch.bool, device=model.device)
    none = rest | {f"{modality}_present": nobody}
    spent = tower_work(model, none, modality)
    assert spent == 0, (
        f"missing law: {modality} tower computed {spent} numbers for a batch without the modality"
    )
    inputs = ["pixel_values"] if modality == "image" else ["input_ids", "attention_mask"]
    # Inputs that are marked absent and inputs that are not passed must mean the same.
    left_out = {
        name: value for name, value in rest.items() if name not in [*inputs, f"{modality}_present"]
    }
    agree(
        f"missing law (no {modality} at all)",
        logits_of(model, none),
        logits_of(model, left_out),
        tolerance,
    )


def check_gradient_law(model: FusionClassifier, batch: Batch) -> None:
    """Checks in training mode that trainable parameters get a gradient and frozen ones get none.

    Attention key biases are left out, because their gradient is zero by construction.
    """
    # In float64, rounding cannot hide the difference between a small gradient and a zero one.
    copied = copy.deepcopy(model).double().train()
    # A dropped modality would leave its tower without a gradient.
    copied.config.modality_dropout = 0.0
    torch.manual_seed(0)
    copied(
        **{
            name: value.double() if value.is_floating_point() else value
            for name, value in batch.items()
        }
    ).loss.backward()
    without_gradient = []
    for name, parameter in copied.named_parameters():
        # A parameter without an element, of a part that is switched off, has no gradient to get.
        if not parameter.numel():
            continue
        size = 0.0 if parameter.grad is None else float(parameter.grad.abs().max())
        if not parameter.requires_grad:
            assert parameter.grad is None, (
                f"gradient law: {name} is frozen and has a gradient of {size:.3g}"
            )
        # "not greater" instead of "at most", so that a gradient of NaN counts as missing too.
        elif not size > 1e-12 and not KEY_BIAS.search(name):
            without_gradient.append(f"{name} ({size:.3g})")
    assert not without_gradient, f"gradient law: no gradient for {', '.join(without_gradient)}"


def check_frozen_law(model: FusionClassifier, batch: Batch) -> None:
    """Checks that frozen towers stay in eval mode, keep their weights and get no gradient.

    The check freezes the towers of a copy and runs a forward and a backward pass in training mode.
    """
    copied = copy.deepcopy(model)
    for modality in copied.modalities:
        copied.freeze(modality)
    towers = [tower for tower in (copied.image_encoder, copied.text_encoder) if tower is not None]
    before = [state_of(tower) for tower in towers]
    # `train` must leave frozen towers in eval mode. In training mode, batch statistics would
    # change.
    copied.train()(**batch).loss.backward()
    for tower, state in zip(towers, before, strict=True):
        training = [name for name, module in tower.backbone.named_modules() if module.training]
        assert not training, (
            f"frozen law: {len(training)} modules in training mode, {training[:3]} first"
        )
        check_same_state("frozen law (training mode)", state, state_of(tower))
        with_gradient = [
            name for name, parameter in tower.named_parameters() if parameter.grad is not None
        ]
        assert not with_gradient, (
            f"frozen law: gradient for {len(with_gradient)} frozen parameters, "
            f"{with_gradient[:3]} first"
        )


def check_static_law(
    model: FusionClassifier, batch: Batch, *, tolerance: float = TOLERANCE
) -> None:
    """Checks that the path of compiled graphs, run eagerly, gives the logits of the eager path."""
    expected = logits_of(model, batch)
    # The model takes the path of compiled graphs if torch reports that it is compiling.
    with mock.patch("torch.compiler.is_compiling", return_value=True):
        agree("static law", expected, logits_of(model, batch), tolerance)


def check_packing_law(
    model: FusionClassifier, batch: Batch, *, tolerance: float = TOLERANCE
) -> None:
    """Checks that packed texts give the logits of padded texts.

    A backbone that cannot pack runs padded both times, so it passes.
    """
    assert model.text_encoder is not None
    # The setting belongs to the caller's model, so it is restored at the end.
    before = model.text_encoder.padding
    answers = {}
    for padding in ("padded", "packed"):
        model.text_encoder.padding = padding
        answers[padding] = logits_of(model, batch)
    model.text_encoder.padding = before
    agree("packing law", answers["padded"], answers["packed"], tolerance)


def check_compiled_law(
    model: FusionClassifier,
    batch: Batch,
    *,
    backend: str = "aot_eager",
    tolerance: float = TOLERANCE,
) -> None:
    """Checks that the model compiled as one graph by `torch.compile` gives the eager logits.

    Args:
        model: a classifier. The run-time check of jaxtyping must be off, because it cannot be
            compiled.
        batch: the inputs of the model.
        backend: the backend for `torch.compile`.
        tolerance: the largest difference.
    """
    expected = logits_of(model, batch)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    with mode(model, False), torch.no_grad():
        agree(f"compiled law ({backend})", expected, compiled(**batch).logits, tolerance)


def check_walk_law(encoder: Encoder, *inputs: Tensor, tolerance: float = TOLERANCE) -> None:
    """Checks that embed, each block and pool, called one by one, give the result of forward.

    Args:
        encoder: an image or text encoder.
        *inputs: the inputs of its forward; no sample may lack them.
        tolerance: the largest difference in tokens and in the pooled vector.
    """
    with mode(encoder, False), torch.no_grad():
        whole = encoder(*inputs)
        hidden = encoder.embed(*inputs)
        for index in range(encoder.num_blocks):
            hidden = encoder.block(index, hidden)
        walked = encoder.pool(hidden)
    # Tokens are compared only where the mask is set, because the padding may hold any numbers.
    assert torch.equal(whole.mask, walked.mask), "walk law: the masks differ"
    agree("walk law (tokens)", whole.tokens[whole.mask], walked.tokens[walked.mask], tolerance)
    agree("walk law (pooled)", whole.pooled, walked.pooled, tolerance)


def check_composing_law(model: FusionClassifier) -> None:
    """Checks that copies of the towers keep their tensors, to the bit, in a new classifier."""
    parts = {
        name: copy.deepcopy(getattr(model, name)) for name in ("image_encoder", "text_encoder")
    }
    before = {name: state_of(part) for name, part in parts.items() if part is not None}
    config = model.config
    composed = FusionClassifier(
        **parts, mapper=config.mapper, fusion=config.fusion, num_labels=config.num_labels
    )
    for name, state in before.items():
        check_same_state(f"composing law ({name})", state, state_of(getattr(composed, name)))


def check_repeatable_law(build: Callable[[], nn.Module]) -> None:
    """Checks that two calls of `build` after the same seed give equal weights, to the bit."""
    states = []
    for _ in range(2):
        torch.manual_seed(0)
        states.append(state_of(build()))
    check_same_state("repeatable law", *states)


def tower_work(model: FusionClassifier, batch: Batch, modality: str, *, whole: bool = False) -> int:
    """Returns how many numbers enter the modules of a tower before the strategy first acts.

    Only modules with parameters of their own count, up to the first block in which the strategy
    acts.

    Args:
        model: a classifier.
        batch: the inputs of the model.
        modality: "image" or "text".
        whole: whether the later blocks count as well.
    """
    encoder: Encoder = getattr(model, f"{modality}_encoder")
    first = (
        encoder.num_blocks
        if whole or len(model.modalities) < 2
        else getattr(model.fusion, f"first_{modality}_block")
    )
    # Blocks from the first fused one on may receive tokens of the other modality, so their work
    # tells nothing about this modality.
    left_out: set[nn.Module] = set()
    if first < encoder.num_blocks:
        blocks, tail = encoder.adapter.parts()
        left_out = {
            inner for part in [*itertools.chain(*blocks[first:]), *tail] for inner in part.modules()
        }
    counts: list[int] = []

    def count(_: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        counts.extend(
            value.numel() for value in (*args, *options.values()) if isinstance(value, Tensor)
        )

    # Containers would count their inputs a second time, so only modules with own parameters count.
    own = [
        module
        for module in encoder.backbone.modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    handles = [
        module.register_forward_pre_hook(count, with_kwargs=True)
        for module in own
        if module not in left_out
    ]
    try:
        logits_of(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return sum(counts)


def _check_neither(model: FusionClassifier, batch: Batch) -> None:
    """Checks that a batch without any modality raises a ValueError."""
    absent = {
        f"{modality}_present": torch.zeros_like(batch[f"{modality}_present"])
        for modality in model.modalities
    }
    try:
        logits_of(model, batch | absent)
    except ValueError:
        return
    raise AssertionError("missing law: samples with neither modality raised no ValueError")
