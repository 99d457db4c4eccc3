"""Every law, for every strategy x mapper x kind of encoder, with random parameters."""

import copy
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from mmfusion import FusionClassifier, FusionConfig, ImageEncoder, TextEncoder
from mmfusion import testing as kit
from mmfusion.model.fusion import BUILT_IN
from mmfusion.model.fusion import FUSIONS as table
from mmfusion.model.mapper import MAPPERS as mapper_table
from mmfusion.model.mapper import make_mapper

FUSIONS: dict[str, Any] = {name: name for name in BUILT_IN}
VARIANTS: dict[str, Any] = {
    "joint-early": {"name": "joint", "at": 0},
    "joint-middle-shared": {"name": "joint", "at": 2, "shared_blocks": 1},
    "joint-after": {"name": "joint", "at": 4, "shared_blocks": 2},
    "mmtm-first-blocks": {"name": "mmtm", "blocks": [[0, 0], [2, 1]]},
    "mmtm-one-pair": {"name": "mmtm", "pairs": 1},
    "bottleneck-narrow": {"name": "bottleneck", "layers": 2, "num_tokens": 2, "dim": 8},
    "late-learned": {"name": "late", "combine": "learned"},
    "late-product": {"name": "late", "combine": "product"},
}
# `identity` asks for towers of one width, which the tiny ones do not have.
MAPPERS: dict[str, Any] = {name: name for name in mapper_table if name != "identity"} | {
    "cross_attention": {"name": "cross_attention", "num_queries": 5},
    "image_queries": {"name": "cross_attention", "queries": "image"},
}
WALKING = [name for name in FUSIONS if table[name].acts_in_both_towers]
WALKED_IMAGE = ("timm_vit", "transformers_vit", "cnn")
WALKED_TEXT = ("bert", "roberta", "distilbert", "mpnet", "modernbert")


def _cases() -> list[Any]:
    """Returns every strategy x mapper x image kind, then every text kind and every variant.

    The first group takes the text kinds in turn, because a full product would take too long.
    """
    cases = []
    for fusion in FUSIONS:
        walks = table[fusion].acts_in_both_towers
        for image in WALKED_IMAGE if walks else kit.IMAGE_KINDS:
            texts = WALKED_TEXT if walks else kit.TEXT_KINDS
            cases += [(fusion, mapper, image, texts[len(cases) % len(texts)]) for mapper in MAPPERS]
        for text in WALKED_TEXT if walks else kit.TEXT_KINDS:
            cases.append((fusion, "linear", "timm_vit", text))
    cases += [(variant, "linear", "timm_vit", "bert") for variant in VARIANTS]
    cases += [
        (variant, "cross_attention", "transformers_vit", "modernbert") for variant in VARIANTS
    ]
    cases += [
        (variant, "mlp", "cnn", "mpnet")
        for variant in VARIANTS
        if not variant.startswith(("joint-early", "joint-middle"))
    ]
    return [pytest.param(*case, id="-".join(case)) for case in dict.fromkeys(cases)]


def _model(fusion: str, mapper: str, image: str, text: str) -> FusionClassifier:
    return kit.tiny_classifier((FUSIONS | VARIANTS)[fusion], MAPPERS[mapper], image, text)


@pytest.mark.parametrize(("fusion", "mapper", "image", "text"), _cases())
def test_laws(fusion: str, mapper: str, image: str, text: str) -> None:
    model = _model(fusion, mapper, image, text)
    batch = kit.tiny_batch(model)
    kit.check_batch_law(model, batch)
    kit.check_padding_law(model, batch)
    kit.check_packing_law(model, batch)
    kit.check_missing_law(model, batch)
    kit.check_gradient_law(model, batch)
    kit.check_frozen_law(model, batch)
    kit.check_static_law(model, batch)


@pytest.mark.parametrize(
    ("fusion", "image"),
    [
        (name, kind)
        for name in FUSIONS
        for kind in (WALKED_IMAGE if table[name].acts_in_both_towers else kit.IMAGE_KINDS)
    ],
)
def test_multi_label(fusion: str, image: str) -> None:
    options: Any = {"problem_type": "multi_label_classification", "auxiliary_loss_weight": 0.5}
    model = kit.tiny_classifier(fusion, "linear", image, "bert", **options)
    batch = kit.tiny_batch(model)
    kit.check_missing_law(model, batch)
    kit.check_gradient_law(model, batch)


@pytest.mark.parametrize("fusion", WALKING)
@pytest.mark.parametrize(
    ("image", "text"), [("opaque", "bert"), ("custom", "bert"), ("timm_vit", "custom")]
)
def test_a_tower_that_cannot_be_entered_is_refused(fusion: str, image: str, text: str) -> None:
    side = "text" if text == "custom" else "image"
    with pytest.raises(
        ValueError, match=rf"{side}_encoder must be a backbone that can be walked .* Use 'concat'"
    ):
        kit.tiny_classifier(fusion, "linear", image, text)


@pytest.mark.parametrize("image", ["cnn", "opaque", "custom"])
def test_joint_refuses_an_early_block_where_no_foreign_tokens_are_taken(image: str) -> None:
    with pytest.raises(ValueError, match="at must be"):
        kit.tiny_classifier({"name": "joint", "at": 0}, "linear", image, "bert")


@pytest.mark.parametrize("fusion", WALKING)
@pytest.mark.parametrize("modality", ["image", "text"])
def test_nothing_is_spent_on_an_absent_sample_in_any_block(fusion: str, modality: str) -> None:
    model = kit.tiny_classifier(fusion)
    batch = kit.tiny_batch(model)
    rows = batch[f"{modality}_present"]
    present = {name: value[rows] for name, value in batch.items()}
    spent = kit.tower_work(model, batch, modality, whole=True)
    assert spent == kit.tower_work(model, present, modality, whole=True) > 0


@pytest.mark.parametrize("kind", kit.IMAGE_KINDS)
def test_image_only(kind: str) -> None:
    _check_alone(kit.tiny_classifier(image=kind, text=None))


@pytest.mark.parametrize("kind", kit.TEXT_KINDS)
def test_text_only(kind: str) -> None:
    model = kit.tiny_classifier(image=None, text=kind)
    _check_alone(model)
    kit.check_padding_law(model, kit.tiny_batch(model))


def _check_alone(model: FusionClassifier) -> None:
    batch = kit.tiny_batch(model)
    kit.check_batch_law(model, batch)
    kit.check_missing_law(model, batch)
    kit.check_gradient_law(model, batch)
    kit.check_frozen_law(model, batch)
    kit.check_composing_law(model)


@pytest.mark.parametrize("kind", kit.IMAGE_KINDS)
def test_walk_of_images(kind: str) -> None:
    model = kit.tiny_classifier(image=kind, text=None)
    assert isinstance(model.image_encoder, ImageEncoder)
    kit.check_walk_law(model.image_encoder, kit.tiny_batch(model)["pixel_values"])


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("kind", kit.TEXT_KINDS)
def test_walk_of_texts(kind: str, pooling: str) -> None:
    encoder = kit.tiny_text_encoder(kind)
    encoder = TextEncoder.from_config(encoder.config.to_dict() | {"pooling": pooling})
    kit.redraw_parameters(encoder, 0)
    batch = kit.repadded(
        kit.tiny_batch(kit.tiny_classifier(image=None, text=encoder)), side="left", extra=2
    )
    kit.check_walk_law(encoder, batch["input_ids"], batch["attention_mask"])


@pytest.mark.parametrize(
    ("fusion", "mapper"),
    [*((name, "linear") for name in FUSIONS), *(("concat", name) for name in MAPPERS)],
)
def test_composing_and_repeatable(fusion: str, mapper: str) -> None:
    for image, text in (("timm_vit", "bert"), ("cnn", "mpnet")):
        model = _model(fusion, mapper, image, text)
        kit.check_composing_law(model)
        kit.check_repeatable_law(
            lambda model=model: FusionClassifier(FusionConfig.from_dict(model.config.to_dict()))
        )


def test_a_partly_frozen_and_an_adapted_tower_obey_the_laws() -> None:
    frozen = (
        kit.tiny_classifier("concat", image="cnn")
        .freeze("image", keep_last=2)
        .freeze("text", keep_last=1)
    )
    adapted = kit.tiny_classifier("late")
    adapted.text_encoder.add_lora(r=2)
    adapted.image_encoder.add_lora(r=2)
    kit.redraw_parameters(adapted, 0)
    for model in (frozen, adapted):
        batch = kit.tiny_batch(model)
        kit.check_batch_law(model, batch)
        kit.check_padding_law(model, batch)
        kit.check_missing_law(model, batch)
        kit.check_gradient_law(model, batch)
        kit.check_static_law(model, batch)


def test_partly_frozen_towers_keep_their_batch_statistics() -> None:
    model = kit.tiny_classifier("concat", image="cnn").freeze("image", keep_last=1).train()
    before = {name: value.clone() for name, value in model.image_encoder.named_buffers()}
    model(**kit.tiny_batch(model))
    changed = {
        name
        for name, value in model.image_encoder.named_buffers()
        if not torch.equal(value, before[name])
    }
    assert changed and all("layer4" in name for name in changed)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_modality_dropout_draws_a_modality_away_only_in_training(fusion: str) -> None:
    model = kit.tiny_classifier(fusion, image="timm_vit", text="distilbert")
    batch = kit.tiny_batch(model, 8, missing=False)
    plain = model(**batch).logits
    model.config.modality_dropout = 0.9
    assert torch.equal(plain, model(**batch).logits)
    torch.manual_seed(0)
    seen: list[int] = []
    handle = next(model.image_encoder.backbone.children()).register_forward_pre_hook(
        lambda _, args: seen.append(len(args[0]))
    )
    model.train()(**batch).loss.backward()
    handle.remove()
    assert 0 < sum(seen) < 8


def test_a_new_process_gives_the_same_logits_to_the_bit() -> None:
    # One process loads all models, because importing takes most of the time.
    names = [(fusion, "linear", "timm_vit", "bert") for fusion in FUSIONS | VARIANTS]
    names += [("concat", mapper, "cnn", "modernbert") for mapper in MAPPERS]
    names += [
        ("cross_attention", "mlp", image, text)
        for image, text in zip(kit.IMAGE_KINDS, kit.TEXT_KINDS, strict=False)
    ]
    models = [_model(*name) for name in names]
    models += [kit.tiny_classifier(image=kind, text=None) for kind in kit.IMAGE_KINDS]
    models += [kit.tiny_classifier(image=None, text=kind) for kind in kit.TEXT_KINDS]
    models.append(
        kit.tiny_classifier("concat", problem_type="multi_label_classification").freeze(
            "image", keep_last=1
        )
    )
    adapted = kit.tiny_classifier("late", auxiliary_loss_weight=0.1)
    adapted.text_encoder.add_lora(r=2)
    kit.redraw_parameters(adapted, 3)
    models.append(adapted)
    kit.check_round_trip_law(*((model, kit.tiny_batch(model)) for model in models))


COMPILED = """
import torch
from mmfusion import testing as kit
from mmfusion.model.fusion import BUILT_IN
from mmfusion.model.fusion import FUSIONS as table
from mmfusion.model.mapper import MAPPERS as mapper_table
from mmfusion.model.mapper import make_mapper
torch.set_num_threads(1)
for fusion, mapper, image, text in [
    ("joint", "cross_attention", "timm_vit", "bert"),
    ("mmtm", "linear", "cnn", "distilbert"),
    ("late", "mlp", "transformers_vit", "roberta"),
]:
    model = kit.tiny_classifier(fusion, mapper, image, text)
    kit.check_compiled_law(model, kit.tiny_batch(model))
    # Once more after texts were packed, because packing changes the name of the attention.
    model.text_encoder.padding = "packed"
    torch.compiler.reset()
    kit.check_compiled_law(model, kit.tiny_batch(model))
"""


def test_compiled_equals_eager() -> None:
    # This needs a process of its own, because torch.compile and the run-time check of shapes clash.
    done = subprocess.run(
        [sys.executable, "-c", COMPILED],
        env=os.environ.copy(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("mapper", MAPPERS)
def test_mapper(mapper: str) -> None:
    options = {"name": mapper} if isinstance(MAPPERS[mapper], str) else MAPPERS[mapper]
    kit.check_mapper(make_mapper(options, 12, 16), in_dim=12, out_dim=16)


def test_a_copy_of_a_model_is_a_model_of_its_own() -> None:
    for image, text in zip(kit.IMAGE_KINDS, kit.TEXT_KINDS, strict=False):
        model = kit.tiny_classifier("concat", image=image, text=text)
        batch = kit.tiny_batch(model)
        copied = copy.deepcopy(model)
        expected = model(**batch).logits
        assert torch.equal(expected, copied(**batch).logits)
        for parameter in copied.parameters():
            nn.init.zeros_(parameter)
        assert torch.equal(expected, model(**batch).logits)
        assert not copied(**batch).logits.any()
