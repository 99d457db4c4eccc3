"""Each law catches a model that breaks it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmfusion import (
    EmbeddingMapper,
    Fused,
    FusionClassifier,
    ImageEncoder,
)
from mmfusion import testing as kit
from mmfusion.model.tower import Tower

Act = Callable[[Any, Tower, Tower, EmbeddingMapper], Fused]


def _fused(fusion: Any, image: Tensor, text: Tensor) -> Fused:
    return Fused(torch.cat([image, text], dim=-1), fusion.head(image, text), image, text)


def _plain(fusion: Any, image: Tower, text: Tower, mapper: EmbeddingMapper) -> Fused:
    return _fused(fusion, image.encode().pooled, mapper(text.encode()).pooled)


def _across_the_batch(fusion: Any, image: Tower, text: Tower, mapper: EmbeddingMapper) -> Fused:
    pooled = image.encode().pooled
    return _fused(fusion, pooled - pooled.mean(0), mapper(text.encode()).pooled)


def _reads_padding(fusion: Any, image: Tower, text: Tower, mapper: EmbeddingMapper) -> Fused:
    assert text._inputs is not None
    shift = text._spread(text._inputs[0].float().mean(1, keepdim=True).repeat(1, 32), None)
    return _fused(fusion, image.encode().pooled, mapper(text.encode()).pooled + shift)


def _encodes_the_absent(fusion: Any, image: Tower, text: Tower, mapper: EmbeddingMapper) -> Fused:
    if image._inputs is not None:
        image.encoder(torch.zeros(image.batch, 3, 32, 32, dtype=image._inputs[0].dtype))
    return _plain(fusion, image, text, mapper)


def _leaves_the_text_out(fusion: Any, image: Tower, text: Tower, mapper: EmbeddingMapper) -> Fused:
    return _fused(fusion, image.encode().pooled, mapper(text.encode()).pooled.detach())


def test_a_lawful_plug_in_passes(plug_in: Any) -> None:
    model = plug_in("lawful", _plain)
    batch = kit.tiny_batch(model)
    kit.check_batch_law(model, batch)
    kit.check_padding_law(model, batch)
    kit.check_missing_law(model, batch)
    kit.check_gradient_law(model, batch)
    kit.check_static_law(model, batch)


def test_the_batch_law_catches_attention_across_samples(plug_in: Any) -> None:
    model = plug_in("across", _across_the_batch)
    with pytest.raises(
        AssertionError, match=r"batch law \(alone and in a batch\): answers differ by \d"
    ):
        kit.check_batch_law(model, kit.tiny_batch(model))


def test_the_padding_law_catches_what_reads_padding(plug_in: Any) -> None:
    model = plug_in("padding", _reads_padding)
    with pytest.raises(AssertionError, match="padding law"):
        kit.check_padding_law(model, kit.tiny_batch(model, missing=False))


def test_the_missing_law_catches_compute_for_absent_samples(plug_in: Any) -> None:
    model = plug_in("wasteful", _encodes_the_absent)
    with pytest.raises(AssertionError, match=r"missing law: image tower computed \d+ numbers"):
        kit.check_missing_law(model, kit.tiny_batch(model))


def test_the_missing_law_catches_a_slot_that_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    model = kit.tiny_classifier(image="custom", text="custom")
    monkeypatch.setattr("mmfusion.model.tower.rows_of", lambda *_: None)
    with pytest.raises(
        AssertionError, match=r"missing law \(contents of the slot\): answers differ by nan"
    ):
        kit.check_missing_law(model, kit.tiny_batch(model))


def test_the_missing_law_wants_an_error_for_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    model = kit.tiny_classifier(image="custom", text="custom")
    monkeypatch.setattr("mmfusion.model.missing._check_somebody", lambda *_: None)
    with pytest.raises(AssertionError, match="neither modality raised no ValueError"):
        kit.check_missing_law(model, kit.tiny_batch(model))


@pytest.mark.parametrize(("name", "act", "spare", "culprit"), [
    ("spare", _plain, True, r"fusion\.spare \(0\)"),
    ("no-text", _leaves_the_text_out, False, r"absent_text .*mapper\.map\.0\.weight"),
])  # fmt: skip
def test_the_gradient_law_names_the_parameter(
    plug_in: Any, name: str, act: Act, spare: bool, culprit: str
) -> None:
    model = plug_in(name, act, spare=spare)
    with pytest.raises(AssertionError, match=f"gradient law: no gradient for .*{culprit}"):
        kit.check_gradient_law(model, kit.tiny_batch(model))


def test_the_gradient_law_leaves_key_biases_out_and_nothing_else() -> None:
    model = kit.tiny_classifier(image="transformers_vit")
    biases = [name for name, _ in model.named_parameters() if name.endswith("key.bias")]
    assert biases
    kit.check_gradient_law(model, kit.tiny_batch(model))


def test_the_frozen_law_catches_batch_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    model = kit.tiny_classifier(image="cnn", text=None)
    monkeypatch.setattr(ImageEncoder, "train", nn.Module.train)
    with pytest.raises(AssertionError, match=r"frozen law: .* modules in training mode"):
        kit.check_frozen_law(model, kit.tiny_batch(model))


def test_the_static_law_catches_another_road(monkeypatch: pytest.MonkeyPatch) -> None:
    model = kit.tiny_classifier(image="custom", text="custom")
    monkeypatch.setattr("mmfusion.model.tower.Tower._fill", lambda self, encoded: encoded)
    with pytest.raises((AssertionError, RuntimeError)):
        kit.check_static_law(model, kit.tiny_batch(model))


def test_the_walk_law_catches_a_block_left_out() -> None:
    encoder = kit.tiny_image_encoder("timm_vit")
    encoder.num_blocks -= 1
    with pytest.raises(AssertionError, match=r"walk law \(tokens\)"):
        kit.check_walk_law(encoder, torch.randn(2, 3, 32, 32))


def test_the_composing_law_catches_weights_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    model = kit.tiny_classifier(image="custom", text="custom")
    monkeypatch.setattr(FusionClassifier, "post_init", lambda self: kit.redraw_parameters(self, 1))
    with pytest.raises(
        AssertionError, match=r"composing law \(image_encoder\): 2 of 2 tensors changed"
    ):
        kit.check_composing_law(model)


def test_the_repeatable_law_catches_weights_from_elsewhere() -> None:
    seeds = iter(range(9))

    def build() -> nn.Module:
        module = nn.Linear(2, 2)
        kit.redraw_parameters(module, next(seeds))
        return module

    with pytest.raises(AssertionError, match="repeatable law: 2 of 2 tensors changed"):
        kit.check_repeatable_law(build)
