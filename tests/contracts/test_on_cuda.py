"""Every strategy on a CUDA device: the answers of the CPU, the laws, and no wait for the device.

These tests need a GPU. `tests/contracts/test_fake_cuda.py` and `test_host_waits.py` prove what can
be proven without one.
"""

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmfusion import (
    FusionClassifier,
    FusionCollator,
    FusionProcessor,
    ImageEncoder,
    TextEncoder,
    explain,
    fit,
    load_manifest,
    predict_stream,
    training_arguments,
)
from mmfusion import testing as kit
from mmfusion.data.toy import draw_shapes, word_tokenizer
from mmfusion.model import packed_attention
from mmfusion.model.facts import look
from mmfusion.model.fusion import BUILT_IN
from mmfusion.testing import laws

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""The largest difference from the logits of the CPU in float32, for logits of about 1."""

# Heads of a width that the variable-length kernel takes.
SIZES = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 32,
}


@pytest.fixture(autouse=True)
def _float32_is_exact() -> Iterator[None]:
    """Turns TF32 off, which keeps only ten bits of a float32."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = False
    yield
    products.allow_tf32, convolutions.allow_tf32 = before
    torch.cuda.set_sync_debug_mode("default")


def classifier(fusion: str, image: str = "transformers_vit", **options: Any) -> FusionClassifier:
    text = TextEncoder(kit.tiny_config("bert", **SIZES), **options)
    return kit.tiny_classifier(fusion, "cross_attention", image, text).eval()


def on_card(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value.to("cuda") for name, value in batch.items()}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("padding", ["padded", "packed"])
@pytest.mark.parametrize("image", ["transformers_vit", "timm_vit", "cnn"])
@pytest.mark.parametrize("fusion", BUILT_IN)
@torch.no_grad()
def test_the_logits_are_those_of_the_cpu(
    fusion: str, image: str, padding: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, runs = packed_attention._by_kernel, []
    monkeypatch.setattr(
        packed_attention, "_by_kernel", lambda *args: runs.append(args[0].dtype) or kernel(*args)
    )
    model = classifier(fusion, image, padding=padding)
    batch = kit.tiny_batch(model, 8)
    expected = model(**batch).logits
    moved = on_card(batch) | {"pixel_values": batch["pixel_values"].to("cuda", dtype)}
    found = model.to("cuda", dtype)(**moved).logits.float().cpu()
    # `guarded` answers with logarithms of probabilities, which are larger.
    size = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(found, expected, atol=size * TOLERANCE[dtype], rtol=0)
    assert bool(runs) == (padding == "packed" and dtype != torch.float32)


@pytest.mark.parametrize("image", ["transformers_vit", "cnn"])
@pytest.mark.parametrize("fusion", BUILT_IN)
def test_the_laws_hold(fusion: str, image: str) -> None:
    model = classifier(fusion, image).cuda()
    kit.redraw_parameters(model, 0)
    batch, large = kit.tiny_batch(model), kit.tiny_batch(model, 12)
    large["attention_mask"][6:, 1:] = 0
    for check, inputs in (
        (laws.check_batch_law, large),
        (laws.check_static_law, large),
        (laws.check_padding_law, batch),
        (laws.check_packing_law, batch),
        (laws.check_missing_law, batch),
    ):
        check(model, inputs, tolerance=1e-4)
    laws.check_gradient_law(model, batch)
    laws.check_frozen_law(model, batch)
    kit.check_round_trip_law((model, batch))


def test_the_laws_of_encoders_and_mappers_hold() -> None:
    model = classifier("concat").cuda()
    kit.check_encoder(model.image_encoder, model.text_encoder)
    kit.check_mapper(model.mapper, in_dim=32, out_dim=model.image_encoder.dim)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("image", ["transformers_vit", "cnn"])
@pytest.mark.parametrize("fusion", BUILT_IN)
def test_the_host_never_waits(fusion: str, image: str, dtype: torch.dtype) -> None:
    """torch itself raises at every wait inside of a forward and backward pass."""
    model = classifier(fusion, image, padding="packed")
    batch = kit.tiny_batch(model, 8)
    facts = look(batch)
    moved = on_card(batch) | {"pixel_values": batch["pixel_values"].to("cuda", dtype)}
    model.to("cuda", dtype)
    for training in (False, True, False):
        model.train(training)(**moved, facts=facts).loss.backward()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        model(**moved, facts=facts).loss.backward()
        torch.cuda.set_sync_debug_mode("default")
    with pytest.raises(RuntimeError, match="synchronizing CUDA operation"):
        torch.cuda.set_sync_debug_mode("error")
        model(**moved)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_manifest(draw_shapes(tmp_path_factory.mktemp("shapes"), 96, size=32, missing=0.1))


def composed(rows: Any, fusion: str) -> tuple[FusionClassifier, FusionProcessor]:
    torch.manual_seed(0)
    tokenizer = word_tokenizer(text for text in rows["text"] if text)
    image = ImageEncoder(kit.tiny_config("vit", **SIZES, image_size=32, patch_size=8))
    text = TextEncoder(kit.tiny_config("bert", **SIZES, vocab_size=len(tokenizer)))
    model = FusionClassifier(image_encoder=image, text_encoder=text, fusion=fusion, num_labels=4)
    return model, FusionProcessor.from_encoders(image, text, tokenizer=tokenizer)


@pytest.mark.parametrize("half", [{}, {"bf16": True}, {"fp16": True}])
@pytest.mark.parametrize("fusion", BUILT_IN)
def test_it_trains(fusion: str, half: dict[str, bool], rows: Any, tmp_path: Path) -> None:
    model, processor = composed(rows, fusion)
    arguments = training_arguments(
        tmp_path,
        num_train_epochs=6,
        per_device_train_batch_size=16,
        learning_rate=3e-3,
        disable_tqdm=True,
        save_strategy="no",
        **half,
    )
    before = copy.deepcopy(model)
    fit(model, processor, rows, rows, arguments=arguments)
    assert model.device.type == "cuda"
    collate = FusionCollator(processor)
    batch = collate([rows[index] for index in range(32)])
    with torch.no_grad():
        losses = [float(one.cuda().eval()(**on_card(batch)).loss) for one in (before, model)]
    assert losses[1] < 0.8 * losses[0], losses


def test_answers_are_streamed_and_explained(rows: Any) -> None:
    model, processor = composed(rows, "cross_attention")
    samples = [rows[index] for index in range(40)]
    found = {}
    for device in ("cpu", "cuda"):
        model.to(device)
        answers = predict_stream(model, processor, samples, batch_size=8, progress=False)
        found[device] = np.array([answer.probabilities for answer in answers])
    np.testing.assert_allclose(found["cuda"], found["cpu"], atol=1e-4)
    whole = next(one for one in samples if one["image"] and one["text"])
    picture = Image.open(whole["image"])
    maps = {
        device: explain(model.to(device), processor, picture, whole["text"])
        for device in ("cpu", "cuda")
    }
    for one, other in zip(maps["cuda"].heat, maps["cpu"].heat, strict=True):
        np.testing.assert_allclose(one.values, other.values, atol=1e-3)


def test_the_compiled_classifier() -> None:
    # This needs a process of its own, because torch.compile and the run-time check of shapes clash.
    cases = Path(__file__).parents[1] / "workers" / "compiled_on_cuda.py"
    options = ["-q", "-n", "4", "-m", "cuda", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options]
    # It is no worker of xdist, about which some plug-ins of pytest would warn.
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_XDIST")}
    environment = kept | {"MMFUSION_SHAPES_UNCHECKED": "1"}
    done = subprocess.run(
        [*command, str(cases)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout
