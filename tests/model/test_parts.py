"""Pictures of a study and windows of a text, against a loop over the parts of each sample."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mmfusion import FusionClassifier
from mmfusion import testing as kit
from mmfusion.model.parts import Parts, pool_each
from mmfusion.model.types import Encoded, Hidden

FLAGS = [[True, True, True], [False, True, False], [False, False, False], [True, False, True]]
PRESENT = torch.tensor(FLAGS)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def by_loop(
    tokens: Tensor, mask: Tensor, pooled: Tensor, embedding: Tensor | None, weighted: bool
) -> list[tuple[Tensor, Tensor]]:
    """Returns per present sample its real tokens, in their order, and its pooled vector."""
    samples, part = [], 0
    for flags in FLAGS:
        rows, vectors, weights = [], [], []
        for place, flag in enumerate(flags):
            if not flag:
                continue
            added = 0 if embedding is None else embedding[place]
            rows.append(tokens[part][mask[part]] + added)
            vectors.append(pooled[part] + added)
            weights.append(float(mask[part].sum()) if weighted else 1.0)
            part += 1
        if rows:
            mean = sum(w * v for w, v in zip(weights, vectors, strict=True)) / sum(weights)
            samples.append((torch.cat(rows), mean))
    return samples


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("is_text", [False, True])
def test_parts_stand_side_by_side(is_text: bool, traced: bool) -> None:
    encoded_parts = 12 if traced else 6
    tokens, pooled, embedding = drawn(12, 5, 4), drawn(12, 4), drawn(3, 4)
    lengths = torch.randint(1, 6, (12, 1), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(5) < (lengths if is_text else torch.full_like(lengths, 5))
    weights = mask.sum(1).view(4, 3) * PRESENT if is_text else None
    parts = Parts(
        PRESENT,
        None if traced else FLAGS,
        embedding=None if is_text else embedding,
        weights=weights,
        lengths=weights.tolist() if weights is not None and not traced else None,
    )
    own = [parts.select(value.view(4, 3, *value.shape[1:])) for value in (tokens, mask, pooled)]
    assert len(own[0]) == encoded_parts
    joined = parts.join(Encoded(*own))
    here = PRESENT.flatten()
    expected = by_loop(
        tokens[here], mask[here], pooled[here], None if is_text else embedding, is_text
    )
    rows = [0, 1, 3] if traced else [0, 1, 2]
    for row, (real, vector) in zip(rows, expected, strict=True):
        assert torch.allclose(joined.tokens[row][joined.mask[row]], real, atol=1e-6)
        assert torch.allclose(joined.pooled[row], vector, atol=1e-6)
        if is_text:
            # Strategies expect the real tokens of a text first.
            assert joined.mask[row][: len(real)].all()
    if not traced:
        longest = max(len(real) for real, _ in expected)
        assert joined.tokens.shape[1] == (longest if is_text else 15)
        assert parts.sample_lengths == ([len(real) for real, _ in expected] if is_text else None)
        assert parts.counts == [3, 1, 2]
    means = parts.mean(own[2])
    alone = by_loop(tokens[here], mask[here], pooled[here], None, is_text)
    for row, (_, vector) in zip(rows, alone, strict=True):
        assert torch.allclose(means[row], vector, atol=1e-6)
    marks = torch.arange(float(len(means)))[:, None]
    owners = [0, 0, 0, 1, 2, 2] if not traced else [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert parts.spread(marks).flatten().tolist() == owners


def test_one_part_each_is_left_as_it_is_to_the_bit() -> None:
    encoded = Encoded(drawn(2, 3, 4), torch.ones(2, 3).bool(), drawn(2, 4))
    there = torch.ones(2, 1).bool()
    for weights in (None, torch.tensor([[257], [3]])):
        parts = Parts(there, there.tolist(), weights=weights)
        joined = parts.join(encoded)
        assert torch.equal(joined.tokens, encoded.tokens)
        assert torch.equal(joined.pooled, encoded.pooled)


def test_each_part_of_a_joined_sequence_is_pooled_as_its_encoder_does() -> None:
    values, mask = drawn(2, 6, 4), torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]]).bool()

    def first_token(hidden: Hidden) -> Encoded:
        return Encoded(2 * hidden.values, mask[: len(hidden.values)], hidden.values[:, 0])

    pooled = pool_each(Hidden(values, mask), 2, first_token)
    assert torch.allclose(pooled[0], (values[0, 0] + values[0, 3]) / 2)
    assert torch.equal(pooled[1], values[1, 0])


def model_of(fusion: Any, views: int, image: str, text: str, mapper: str) -> FusionClassifier:
    config = kit.tiny_classifier(fusion, mapper, image, text).config
    config.num_views = views
    return FusionClassifier(config)


# With one block, the tokens that enter it are the same in all samples.
BOTTLENECK = {"name": "bottleneck", "layers": 2}
KINDS: list[tuple[Any, ...]] = [
    ("concat", "timm_vit", "bert", "linear"),
    ("joint", "transformers_vit", "modernbert", "cross_attention"),
    ("joint", "timm_vit", "roberta", "linear"),
    ("joint", "cnn", "bert", "mlp"),
    ("cross_attention", "cnn", "roberta", "cross_attention"),
    ("mmtm", "timm_vit", "bert", "linear"),
    ("mmtm", "cnn", "distilbert", "mlp"),
    (BOTTLENECK, "timm_vit", "roberta", "linear"),
    (BOTTLENECK, "cnn", "modernbert", "linear"),
    ("late", "opaque", "custom", "linear"),
    ("guarded", "transformers_vit", "mpnet", "linear"),
]


@pytest.mark.parametrize(("views", "windows"), [(2, 1), (1, 3), (3, 2), (4, 4)])
def test_every_law_holds_for_every_strategy(views: int, windows: int) -> None:
    # In one call: the round trip law starts a new process for all of them.
    models = [
        model_of(kind[0], views, *kind[1:])
        if views > 1
        else kit.tiny_classifier(kind[0], kind[3], *kind[1:3])
        for kind in KINDS
    ]
    kit.check_classifier(*models, windows=windows)


@pytest.mark.parametrize("kind", KINDS[:3], ids="-".join)
def test_an_absent_picture_costs_nothing_and_means_nothing(kind: tuple[str, ...]) -> None:
    model = model_of(*kind[:1], 3, *kind[1:]).eval()
    kit.redraw_parameters(model, 0)
    batch = kit.tiny_batch(model, 4, missing=False)
    pictures = int(batch["image_present"].sum())
    assert 4 <= pictures < 12
    whole = kit.laws.tower_work(model, batch | {"image_present": torch.ones(4, 3).bool()}, "image")
    assert kit.laws.tower_work(model, batch, "image") * 12 == whole * pictures
    other = batch | {"pixel_values": batch["pixel_values"].clone()}
    other["pixel_values"][~batch["image_present"]] = float("nan")
    assert torch.equal(kit.laws.logits_of(model, batch), kit.laws.logits_of(model, other))


def test_the_place_of_a_picture_matters_once_it_is_learned() -> None:
    model = model_of("concat", 2, "cnn", "bert", "linear").eval()
    batch = kit.tiny_batch(model, 2, missing=False)
    batch["image_present"][:] = True
    swapped = batch | {"pixel_values": batch["pixel_values"].flip(1)}
    same = kit.laws.logits_of(model, batch), kit.laws.logits_of(model, swapped)
    # The vectors of the places start at zero: a study is then the mean of its pictures.
    assert torch.allclose(*same, atol=1e-6)
    with torch.no_grad():
        model.view_embedding.copy_(torch.randn(2, model.view_embedding.shape[1]))
        model.probe.out.weight.normal_()
    model.probe.out.weight.requires_grad_(True)
    first = {"image_present": torch.tensor([[True, False]] * 2)}
    second = {"image_present": torch.tensor([[False, True]] * 2)}
    assert not torch.allclose(
        kit.laws.logits_of(model, batch | first),
        kit.laws.logits_of(model, swapped | second),
        atol=1e-3,
    )


def test_one_window_or_picture_is_what_it_was_to_the_bit() -> None:
    for kind in KINDS:
        model = kit.tiny_classifier(kind[0], kind[3], kind[1], kind[2]).eval()
        kit.redraw_parameters(model, 0)
        batch = kit.tiny_batch(model)
        window = {name: batch[name].unsqueeze(1) for name in ("input_ids", "attention_mask")}
        view = {name: batch[name].unsqueeze(1) for name in ("pixel_values", "image_present")}
        expected = kit.laws.logits_of(model, batch)
        for changed in (window, view, window | view):
            assert torch.equal(kit.laws.logits_of(model, batch | changed), expected)
        assert "num_views" not in model.config.to_dict()


def test_too_many_pictures_are_refused() -> None:
    model = model_of("concat", 2, "cnn", "bert", "linear")
    batch = kit.tiny_batch(model)
    batch["pixel_values"] = batch["pixel_values"][:, [0, 0, 0]]
    batch["image_present"] = batch["image_present"][:, [0, 0, 0]]
    with pytest.raises(ValueError, match="at most 2 pictures per sample, got 3"):
        model(**batch)
    one = kit.tiny_classifier("concat", "linear", "cnn", "bert")
    with pytest.raises(ValueError, match="at most 1 pictures per sample, got 3"):
        one(**batch)
    with pytest.raises(
        ValueError, match=r"presence must be one flag per sample \[4\], got \(4, 3\)"
    ):
        model(**batch | {"pixel_values": batch["pixel_values"][:, :2]})
