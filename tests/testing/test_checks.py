"""The checks of mmfusion.testing: they pass plug-ins that obey the laws, and catch others."""

import copy
from collections.abc import Callable
from typing import Any, Self

import pytest
import torch
from torch import Tensor, nn

from mmfusion import (
    EmbeddingMapper,
    Fused,
    Fusion,
    FusionClassifier,
    ImageEncoder,
    Late,
    TextEncoder,
)
from mmfusion import testing as kit
from mmfusion.model.fusion import register_fusion
from mmfusion.model.fusion_base import TowerShapes
from mmfusion.model.registry import register_backbone
from mmfusion.model.tower import Tower

Act = Callable[[Any, Tower, Tower, EmbeddingMapper], Fused]


def _plug_in(name: str, act: Act, *, spare: bool = False) -> FusionClassifier:
    """Returns a classifier whose strategy is `concat` with another forward pass.

    `spare` adds a parameter that nothing uses.
    """

    class PlugIn(Fusion):
        def build(self, shapes: TowerShapes) -> Self:
            super().build(shapes)
            if spare:
                self.spare = nn.Parameter(torch.zeros(3))
            return self

        def forward(self, image: Tower, text: Tower, mapper: EmbeddingMapper) -> Fused:
            return act(self, image, text, mapper)

    register_fusion(name, PlugIn)
    return kit.tiny_classifier(name, image="custom", text="custom")


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


def test_a_lawful_plug_in_passes() -> None:
    model = _plug_in("lawful", _plain)
    batch = kit.tiny_batch(model)
    kit.check_batch_law(model, batch)
    kit.check_padding_law(model, batch)
    kit.check_missing_law(model, batch)
    kit.check_gradient_law(model, batch)
    kit.check_static_law(model, batch)


def test_the_batch_law_catches_attention_across_samples() -> None:
    model = _plug_in("across", _across_the_batch)
    with pytest.raises(
        AssertionError, match=r"batch law \(alone and in a batch\): answers differ by \d"
    ):
        kit.check_batch_law(model, kit.tiny_batch(model))


def test_the_padding_law_catches_what_reads_padding() -> None:
    model = _plug_in("padding", _reads_padding)
    with pytest.raises(AssertionError, match="padding law"):
        kit.check_padding_law(model, kit.tiny_batch(model, missing=False))


def test_the_missing_law_catches_compute_for_absent_samples() -> None:
    model = _plug_in("wasteful", _encodes_the_absent)
    with pytest.raises(AssertionError, match=r"missing law: image tower computed \d+ numbers"):
        kit.check_missing_law(model, kit.tiny_batch(model))


def test_the_missing_law_catches_a_slot_that_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    model = kit.tiny_classifier(image="custom", text="custom")
    monkeypatch.setattr("mmfusion.model.tower._rows_of", lambda *_: None)
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
    name: str, act: Act, spare: bool, culprit: str
) -> None:
    model = _plug_in(name, act, spare=spare)
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


def test_the_round_trip_law_reports_what_the_new_process_says() -> None:
    model = _plug_in("known-here-alone", _plain)
    with pytest.raises(
        AssertionError, match=r"(?s)the new process failed:.*got 'known-here-alone'"
    ):
        kit.check_round_trip_law((model, kit.tiny_batch(model)))


SETUP = """
from torch import nn
from mmfusion import Concat, register_backbone, register_fusion
class Mine(Concat):
    pass
class Pixels(nn.Module):
    dim = 16
    input_spec = {
        "size": [8, 8],
        "channels": 3,
        "mean": [0] * 3,
        "std": [1] * 3,
        "interpolation": "bilinear",
    }
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, stride=4)
    def forward(self, pixel_values):
        return self.patches(pixel_values)
register_fusion("mine", Mine)
register_backbone("pixels", Pixels)
"""


def test_check_classifier_on_plug_ins_and_the_model_stays_as_it_is() -> None:
    space: dict[str, Any] = {}
    exec(SETUP, space)
    encoder = ImageEncoder(space["Pixels"]())
    model = kit.tiny_classifier(space["Mine"](), "linear", encoder, "custom").train()
    before = copy.deepcopy(model.state_dict())
    kit.check_classifier(model, setup=SETUP)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.fixture
def round_trips(monkeypatch: pytest.MonkeyPatch) -> list[FusionClassifier]:
    """Returns the list of models that a check would have sent through a new process.

    The check with a new process has tests of its own.
    """
    models: list[FusionClassifier] = []
    monkeypatch.setattr(
        "mmfusion.testing.checks.check_round_trip_law", lambda case, setup: models.append(case[0])
    )
    return models


@pytest.mark.parametrize("kind", ["custom", "bert"])
def test_check_encoder_on_texts(kind: str, round_trips: list[FusionClassifier]) -> None:
    kit.check_encoder(kit.tiny_text_encoder(kind))
    assert len(round_trips) == 1


@pytest.mark.parametrize("kind", ["cnn", "opaque"])
def test_check_encoder_on_images(kind: str, round_trips: list[FusionClassifier]) -> None:
    kit.check_encoder(kit.tiny_image_encoder(kind))
    assert len(round_trips) == 1


def test_check_encoder_catches_a_wrong_width() -> None:
    class Wide(nn.Module):
        dim = 8

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return torch.nn.functional.one_hot(input_ids % 9, 9).float()

        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(9, 8)

    register_backbone("wide", Wide)
    with pytest.raises(AssertionError, match="shape law: "):
        kit.check_encoder(TextEncoder(Wide()))


class _FirstToken(nn.Module):
    """A wrong mapper: its pooled vector ignores the mask."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(6, 8)

    def forward(self, text: Any, image: Any) -> Any:
        tokens = self.map(text.tokens)
        return text._replace(tokens=tokens, pooled=tokens.mean(1))


def test_check_mapper_catches_padding_that_is_read() -> None:
    with pytest.raises(AssertionError, match=r"padding law \(mapper\)"):
        kit.check_mapper(_FirstToken(), in_dim=6, out_dim=8)


def test_check_fusion_copies_the_strategy(round_trips: list[FusionClassifier]) -> None:
    strategy = Late("product")
    kit.check_fusion(strategy, image="custom", text="custom")
    assert not list(strategy.parameters())
    assert round_trips[0].fusion.combine == "product"


def test_redraw_leaves_no_parameter_as_it_was_and_depends_on_the_seed_alone() -> None:
    model = kit.tiny_classifier("cross_attention", image="cnn")
    before = copy.deepcopy(model.state_dict())
    kit.redraw_parameters(model, 1)
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())
    again = kit.tiny_classifier("cross_attention", image="cnn", seed=1)
    assert all(
        torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True)
    )
    assert all(
        (value > 0).all() for name, value in model.named_buffers() if name.endswith("running_var")
    )


def test_the_tiny_kinds_name_the_closest() -> None:
    with pytest.raises(ValueError, match=r"kind must be one of .* Did you mean 'opaque'\?"):
        kit.tiny_image_encoder("opake")
    with pytest.raises(ValueError, match=r"kind must be one of .* Did you mean 'mpnet'\?"):
        kit.tiny_text_encoder("mpnett")
