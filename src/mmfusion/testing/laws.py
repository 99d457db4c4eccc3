"""The laws of the library, each as a check; `mmfusion.testing` is where users find them."""

import copy
import itertools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..model.encoder_base import Encoder
from ..model.modeling import FusionClassifier
from .tiny import Batch, corrupted, register_tiny_backbones, repadded

TOLERANCE = 1e-5
"""The largest difference of float32 logits that counts as the same answer."""

KEY_BIAS = re.compile(r"(^|\.)(key|k|k_lin|k_proj|key_proj|to_k)\.bias$")
"""Attention key biases: they add one number to every score of a query, which the softmax cancels."""


def check_batch_law(model: FusionClassifier, batch: Batch, *, tolerance: float = TOLERANCE) -> None:
    """Hold a batch against its samples one by one, and against the batch in reversed and rotated order."""
    together = _logits(model, batch)
    rows = len(together)
    alone = torch.cat([_logits(model, _picked(batch, [row])) for row in range(rows)])
    agree("batch law (alone and in a batch)", together, alone, tolerance)
    for order in (list(reversed(range(rows))), [*range(1, rows), 0]):
        agree(
            f"batch law (order {order})",
            together[order],
            _logits(model, _picked(batch, order)),
            tolerance,
        )


def check_padding_law(
    model: FusionClassifier, batch: Batch, *, tolerance: float = TOLERANCE
) -> None:
    """Hold a batch against the same texts padded on either side, further, with other tokens in it."""
    expected = _logits(model, batch)
    for side, extra in itertools.product(("right", "left"), (0, 3)):
        again = _logits(model, repadded(batch, side=side, extra=extra, seed=extra))
        agree(f"padding law ({side}, {extra} columns more)", expected, again, tolerance)


def check_missing_law(
    model: FusionClassifier, batch: Batch, *, tolerance: float = TOLERANCE
) -> None:
    """Hold a batch against other contents of its absent slots, and count what was computed for those.

    In a tower the count covers what comes before the first block in which the strategy acts:
    further on, tokens of the other modality may pass through it. A sample with neither modality
    must raise a ValueError.
    """
    _check_neither(model, batch)
    if len(model.modalities) < 2:
        return
    expected = _logits(model, batch)
    agree(
        "missing law (contents of the slot)", expected, _logits(model, corrupted(batch)), tolerance
    )
    unmarked = {name: value for name, value in batch.items() if name != "text_present"}
    mask = torch.where(batch["text_present"][:, None], batch["attention_mask"], 0)
    agree(
        "missing law (a mask without a one)",
        expected,
        _logits(model, unmarked | {"attention_mask": mask}),
        tolerance,
    )
    for modality, inputs in (
        ("image", ["pixel_values"]),
        ("text", ["input_ids", "attention_mask"]),
    ):
        present = batch[f"{modality}_present"]
        rows = present.nonzero().flatten().tolist()
        spent = tower_work(model, batch, modality)
        needed = tower_work(model, _picked(batch, rows), modality) if rows else 0
        assert spent == needed, (
            f"missing law: {modality} tower computed {spent} numbers where {needed} are of present samples"
        )
        other = _picked(
            batch,
            batch["text_present" if modality == "image" else "image_present"]
            .nonzero()
            .flatten()
            .tolist(),
        )
        if not len(other["labels"]):
            continue
        none = other | {f"{modality}_present": torch.zeros(len(other["labels"]), dtype=torch.bool)}
        spent = tower_work(model, none, modality)
        assert spent == 0, (
            f"missing law: {modality} tower computed {spent} numbers for a batch without the modality"
        )
        left_out = {
            name: value
            for name, value in other.items()
            if name not in [*inputs, f"{modality}_present"]
        }
        agree(
            f"missing law (no {modality} at all)",
            _logits(model, none),
            _logits(model, left_out),
            tolerance,
        )


def check_gradient_law(model: FusionClassifier, batch: Batch) -> None:
    """Look for a trainable parameter without gradient, and for a frozen one with it, in training mode.

    In float64, where a gradient that is zero by construction is told from a small one. Attention
    key biases, whose gradient is zero by construction, are left out.
    """
    copied = copy.deepcopy(model).double().train()
    copied.config.modality_dropout = 0.0
    torch.manual_seed(0)
    copied(
        **{
            name: value.double() if value.is_floating_point() else value
            for name, value in batch.items()
        }
    ).loss.backward()
    without = []
    for name, parameter in copied.named_parameters():
        size = 0.0 if parameter.grad is None else float(parameter.grad.abs().max())
        if not parameter.requires_grad:
            assert parameter.grad is None, (
                f"gradient law: {name} is frozen and has a gradient of {size:.3g}"
            )
        elif not size > 1e-12 and not KEY_BIAS.search(name):
            without.append(f"{name} ({size:.3g})")
    assert not without, f"gradient law: no gradient for {', '.join(without)}"


def check_frozen_law(model: FusionClassifier, batch: Batch) -> None:
    """Freeze the towers of a copy and train it: they stay in eval mode, as they are, without gradient."""
    copied = copy.deepcopy(model)
    for modality in copied.modalities:
        copied.freeze(modality)
    towers = [tower for tower in (copied.image_encoder, copied.text_encoder) if tower is not None]
    before = [_state(tower) for tower in towers]
    copied.train()(**batch).loss.backward()
    for tower, state in zip(towers, before, strict=True):
        training = [name for name, module in tower.backbone.named_modules() if module.training]
        assert not training, (
            f"frozen law: {len(training)} modules in training mode, {training[:3]} first"
        )
        _same_state("frozen law (one training step)", state, _state(tower))
        having = [
            name for name, parameter in tower.named_parameters() if parameter.grad is not None
        ]
        assert not having, (
            f"frozen law: gradient for {len(having)} frozen parameters, {having[:3]} first"
        )


def check_static_law(
    model: FusionClassifier, batch: Batch, *, tolerance: float = TOLERANCE
) -> None:
    """Hold the road that a compiled or exported graph takes, run eagerly, against the eager one."""
    expected = _logits(model, batch)
    with mock.patch("torch.compiler.is_compiling", return_value=True):
        agree("static law", expected, _logits(model, batch), tolerance)


def check_packing_law(
    model: FusionClassifier, batch: Batch, *, tolerance: float = TOLERANCE
) -> None:
    """Hold the text tower on packed texts against padded ones; a backbone that cannot pack is held against itself."""
    assert model.text_encoder is not None
    before = model.text_encoder.config["padding"]
    answers = {}
    for padding in ("padded", "packed"):
        model.text_encoder.padding = padding
        answers[padding] = _logits(model, batch)
    model.text_encoder.padding = before
    agree("packing law", answers["padded"], answers["packed"], tolerance)


def check_compiled_law(
    model: FusionClassifier,
    batch: Batch,
    *,
    backend: str = "aot_eager",
    tolerance: float = TOLERANCE,
) -> None:
    """Hold `torch.compile` in one graph against eager.

    Args:
        model: a classifier; jaxtyping's run-time check must be off, for compiling and it clash.
        batch: its inputs.
        backend: what `torch.compile` takes.
        tolerance: the largest difference.
    """
    expected = _logits(model, batch)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    with mode(model, False), torch.no_grad():
        agree(f"compiled law ({backend})", expected, compiled(**batch).logits, tolerance)


def check_walk_law(encoder: Encoder, *inputs: Tensor, tolerance: float = TOLERANCE) -> None:
    """Hold the walk embed, blocks, pool of an encoder against its forward.

    Args:
        encoder: an image or text encoder.
        *inputs: what its forward takes, all of it present.
        tolerance: the largest difference in tokens and pooled vector.
    """
    with mode(encoder, False), torch.no_grad():
        whole = encoder(*inputs)
        hidden = encoder.embed(*inputs)  # type: ignore[operator]
        for index in range(encoder.num_blocks):
            hidden = encoder.block(index, hidden)
        walked = encoder.pool(hidden)
    assert torch.equal(whole.mask, walked.mask), "walk law: the masks differ"
    agree("walk law (tokens)", whole.tokens[whole.mask], walked.tokens[walked.mask], tolerance)
    agree("walk law (pooled)", whole.pooled, walked.pooled, tolerance)


def check_composing_law(model: FusionClassifier) -> None:
    """Compose copies of the model's towers into a new classifier: their tensors stay, to the bit."""
    parts = {
        name: copy.deepcopy(getattr(model, name)) for name in ("image_encoder", "text_encoder")
    }
    before = {name: _state(part) for name, part in parts.items() if part is not None}
    config = model.config
    composed = FusionClassifier(
        **parts, mapper=config.mapper, fusion=config.fusion, num_labels=config.num_labels
    )
    for name, state in before.items():
        _same_state(f"composing law ({name})", state, _state(getattr(composed, name)))


def check_repeatable_law(build: Callable[[], nn.Module]) -> None:
    """Call `build` twice after the same seed: the same weights, to the bit."""
    states = []
    for _ in range(2):
        torch.manual_seed(0)
        states.append(_state(build()))
    _same_state("repeatable law", *states)


def check_round_trip_law(*cases: tuple[FusionClassifier, Batch], setup: str = "") -> None:
    """Save models, load them in a new process without network: the same logits to the bit, and no pickle.

    Args:
        *cases: models, each with its batch.
        setup: Python source that the new process runs first, to register plug-ins (`"import
            my_plugins"`).
    """
    source = (
        f"{setup}\nfrom mmfusion.testing.laws import _reload\nimport sys\n_reload(sys.argv[1])\n"
    )
    with tempfile.TemporaryDirectory() as name:
        for number, (model, batch) in enumerate(cases):
            folder = Path(name) / str(number)
            model.save_pretrained(folder / "model")
            _check_no_pickle(folder)
            save_file(batch, folder / "batch.safetensors")
        # As many threads as here: sums that are split otherwise round otherwise.
        environment = os.environ | {
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": str(torch.get_num_threads()),
        }
        done = subprocess.run(
            [sys.executable, "-c", source, name],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (
            f"round trip law: the new process failed:\n{done.stderr[-4000:]}"
        )
        for number, (model, batch) in enumerate(cases):
            again = load_file(Path(name) / str(number) / "logits.safetensors")["logits"]
            what = f"round trip law (case {number}: {model.config.fusion}, {model.config.mapper})"
            agree(what, _logits(model, batch), again, 0.0)


def tower_work(model: FusionClassifier, batch: Batch, modality: str, *, whole: bool = False) -> int:
    """How many numbers enter the modules of a tower, up to the first block in which the strategy acts.

    Args:
        model: a classifier.
        batch: its inputs.
        modality: "image" or "text".
        whole: whether to count the blocks behind that one as well.
    """
    encoder: Encoder = getattr(model, f"{modality}_encoder")
    first = (
        encoder.num_blocks
        if whole or len(model.modalities) < 2
        else getattr(model.fusion, f"first_{modality}_block")
    )
    left_out: set[nn.Module] = set()
    if first < encoder.num_blocks:
        blocks, tail = encoder.family.parts()
        left_out = {
            inner for part in [*itertools.chain(*blocks[first:]), *tail] for inner in part.modules()
        }
    counts: list[int] = []

    def count(_: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        counts.extend(
            value.numel() for value in (*args, *options.values()) if isinstance(value, Tensor)
        )

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
        _logits(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return sum(counts)


def _check_neither(model: FusionClassifier, batch: Batch) -> None:
    absent = {
        f"{modality}_present": torch.zeros_like(batch[f"{modality}_present"])
        for modality in model.modalities
    }
    try:
        _logits(model, batch | absent)
    except ValueError:
        return
    raise AssertionError("missing law: samples with neither modality raised no ValueError")


def _check_no_pickle(folder: Path) -> None:
    files = [
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".json", ".safetensors", ".py", ".txt")
    ]
    assert not files, f"round trip law: {[path.name for path in files]} beside JSON and safetensors"


def _reload(folder: str) -> None:
    """What the new process of the round trip does: load each model, and write its logits."""
    register_tiny_backbones()
    for case in Path(folder).iterdir():
        model = FusionClassifier.from_pretrained(case / "model")
        save_file(
            {"logits": _logits(model, load_file(case / "batch.safetensors"))},
            case / "logits.safetensors",
        )


@contextmanager
def mode(module: nn.Module, training: bool) -> Iterator[None]:
    """`module` in training mode or not, for a while."""
    before = module.training
    module.train(training)
    try:
        yield
    finally:
        module.train(before)


def _logits(model: FusionClassifier, batch: Batch) -> Tensor:
    with mode(model, False), torch.no_grad():
        logits: Tensor = model(
            **{name: value for name, value in batch.items() if name != "labels"}
        ).logits
    return logits


def _picked(batch: Batch, rows: Sequence[int]) -> Batch:
    return {name: value[list(rows)] for name, value in batch.items()}


def _state(module: nn.Module) -> Batch:
    return {
        name: value.clone()
        for name, value in itertools.chain(module.named_parameters(), module.named_buffers())
    }


def _same_state(law: str, expected: Batch, got: Batch) -> None:
    assert expected.keys() == got.keys(), (
        f"{law}: {sorted(expected.keys() ^ got.keys())[:5]} stand in one of the two only"
    )
    changed = [name for name, value in expected.items() if not torch.equal(value, got[name])]
    assert not changed, (
        f"{law}: {len(changed)} of {len(expected)} tensors changed, {changed[:3]} first"
    )


def agree(law: str, expected: Tensor, got: Tensor, tolerance: float) -> None:
    """Raise an AssertionError that names the law where answers differ by more than `tolerance`, or by NaN."""
    assert expected.shape == got.shape, (
        f"{law}: shapes {tuple(expected.shape)} and {tuple(got.shape)}"
    )
    figure = float((expected - got).detach().abs().max()) if expected.numel() else 0.0
    assert figure <= tolerance, (
        f"{law}: answers differ by {figure:.3g}, at most {tolerance:g} is allowed"
    )
