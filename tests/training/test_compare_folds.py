"""The trainings of a comparison: folds without leaks, stored outcomes, withheld modalities."""

import json
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from mmfusion import ComparisonRow, ImageEncoder, TextEncoder, load_manifest
from mmfusion.data.text import normalise_text
from mmfusion.data.toy import draw_shapes, word_tokenizer
from mmfusion.model.images import load_image
from mmfusion.testing import tiny_config
from mmfusion.training import compare_folds
from mmfusion.training.compare_encoders import Encoders
from mmfusion.training.compare_folds import Part, Trainings, parts_of
from mmfusion.training.compare_rows import rows_of
from mmfusion.training.feature_cache import cache_features
from mmfusion.training.rows import without

OPTIONS = {"num_train_epochs": 1, "per_device_train_batch_size": 16}
WIDTHS = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> datasets.Dataset:
    """48 rows, some without a picture and some without a text."""
    return load_manifest(draw_shapes(tmp_path_factory.mktemp("s"), 48, size=32, missing=0.15))


@pytest.fixture(scope="module")
def encoders(samples) -> Encoders:
    torch.manual_seed(0)
    tokenizer = word_tokenizer(text for text in samples["text"] if text)
    image = ImageEncoder(tiny_config("vit", **WIDTHS, image_size=32, patch_size=8))
    text = TextEncoder(tiny_config("bert", **WIDTHS, vocab_size=len(tokenizer)))
    return Encoders(image.freeze(), text.freeze(), tokenizer)


def trainings(samples, encoders, folder, augment=None, **options) -> Trainings:
    folders = folder / "answers", folder / "cache"
    return Trainings(samples, encoders, OPTIONS | options, *folders, augment=augment)


def part_of(samples, seed: int = 0) -> Part:
    return parts_of(samples, 2, seed, text="text")[0]


def test_no_group_and_no_text_is_in_two_parts():
    generator = np.random.default_rng(0)
    texts = [f"Text {generator.integers(300)}." for _ in range(120)]
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "group": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["a", "b"]),
        }
    )
    columns = {
        "text": texts,
        "group": [str(i // 2) for i in range(120)],
        "label": [i % 2 for i in range(120)],
    }
    rows = datasets.Dataset.from_dict(columns, features=features)
    parts = parts_of(rows, 3, 0, text="text")
    assert sorted(i for part in parts for i in part.test) == list(range(120))
    for part in parts:
        held = [part.train, part.validation, part.test]
        assert sum(map(len, held)) == 120
        assert part.known.tolist() == sorted([*part.train, *part.validation])
        for key in (columns["group"], [normalise_text(text) for text in texts]):
            seen = [{key[int(i)] for i in rows} for rows in held]
            assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    other = parts_of(rows, 3, 1, text="text")
    assert [p.test.tolist() for p in parts] != [p.test.tolist() for p in other]


def test_a_row_without_epochs_learns_from_training_and_validation_rows(samples, encoders, tmp_path):
    part = part_of(samples)
    (row,) = rows_of("concat", ["image", "text"])
    outcome = trainings(samples, encoders, tmp_path).outcome(row, 0, 0, part)
    assert outcome["held_out_rows"] == part.known.tolist()
    assert np.shape(outcome["held_out"]) == (len(part.known), 4)
    assert np.shape(outcome["logits"]) == (len(part.test), 4)
    assert set(outcome["withheld"]) == {"image", "text"}


def test_pictures_are_augmented_in_training_alone(samples, encoders, tmp_path):
    seen: list[bytes] = []

    def inverted(image, rng):
        seen.append(image.tobytes())
        return ImageOps.invert(image)

    part = part_of(samples)
    row, words = rows_of(["concat", "text"], ["image", "text"])
    mine = trainings(samples, encoders, tmp_path, inverted)
    outcome = mine.outcome(row, 0, 0, part)
    # The model is linear in the embeddings, and trains in epochs all the same.
    assert len([entry for entry in outcome["curve"] if "eval_loss" in entry]) == 2
    shown = [one and load_image(one).tobytes() for one in samples["image"]]
    trained = [shown[i] for i in part.train if shown[i] is not None]
    assert sorted(seen) == sorted(trained) and len({*trained}) == len(trained)
    seen.clear()
    plain = trainings(samples, encoders, tmp_path)
    assert plain.outcome(row, 0, 0, part)["curve"] == []
    # A row without pictures is the same training with and without it, and is stored once.
    alike = [one.outcome(words, 0, 0, part) for one in (mine, plain)]
    assert alike[0] == alike[1] and not seen
    assert len(list((tmp_path / "answers").iterdir())) == 3


@pytest.mark.parametrize("start_was_best", [False, True])
def test_a_row_with_epochs_answers_rows_that_it_was_not_trained_on(
    start_was_best, samples, encoders, tmp_path, monkeypatch
):
    """The validation rows; or all known rows, by the folds inside, if the start was kept."""
    own = compare_folds.fit

    def fitted(*arguments, **options):
        return replace(own(*arguments, **options), start_was_best=start_was_best)

    monkeypatch.setattr(compare_folds, "fit", fitted)
    part = part_of(samples)
    row = ComparisonRow("mlp", fusion="concat", mapper="mlp")
    outcome = trainings(samples, encoders, tmp_path).outcome(row, 0, 0, part)
    asked = part.known if start_was_best else part.validation
    assert sorted(outcome["held_out_rows"]) == asked.tolist()
    assert np.shape(outcome["held_out"]) == (len(asked), 4)
    assert len([entry for entry in outcome["curve"] if "eval_loss" in entry]) == 2


def test_held_out_answers_belong_to_their_rows(encoders, tmp_path):
    """With a rate of 0 the start is kept. Then the answers inside are those of a linear row.

    The brightness of a picture tells the label. An answer in a wrong place would be wrong.
    """
    generator = np.random.default_rng(0)
    lines = ["image,text,label,group"]
    for number in range(80):
        shown = number % 2 if generator.random() < 0.9 else 1 - number % 2
        pixels = generator.integers(0, 90, (32, 32)) + 110 * shown
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,it looks {number},{number % 2},{number}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    rows = load_manifest(tmp_path / "manifest.csv")
    one = trainings(rows, encoders, tmp_path, learning_rate=0.0)
    part = parts_of(rows, 2, 0, text="text")[0]
    # The rows of training and validation are not one after the other, or the test shows nothing.
    assert not np.array_equal(part.known, [*part.train, *part.validation])
    for row in (ComparisonRow("mlp", mapper="mlp"), ComparisonRow("linear", mapper="linear")):
        outcome = one.outcome(row, 0, 0, part)
        assert sorted(outcome["held_out_rows"]) == part.known.tolist()
        truth = np.asarray(rows["label"])[outcome["held_out_rows"]]
        assert (np.asarray(outcome["held_out"]).argmax(1) == truth).mean() > 0.8


@pytest.mark.parametrize("row", ["image", "text"])
def test_a_sample_without_the_modality_gets_the_class_shares(row, samples, encoders, tmp_path):
    part = part_of(samples)
    (chosen,) = rows_of(row, ["image", "text"])
    outcome = trainings(samples, encoders, tmp_path).outcome(chosen, 0, 0, part)
    logits = np.asarray(outcome["logits"])
    lacks = np.asarray([samples[row][int(i)] is None for i in part.test])
    assert lacks.any() and not lacks.all()
    # All these samples have one answer, which is a distribution.
    assert np.ptp(logits[lacks], axis=0).max() == 0
    assert np.exp(logits[lacks][0]).sum() == pytest.approx(1)
    assert np.ptp(logits[~lacks], axis=0).max() > 0


def test_a_withheld_modality_is_not_seen(samples, encoders, tmp_path):
    """With the text withheld, another text changes nothing; a sample without a picture is alike."""
    part = part_of(samples)
    (row,) = rows_of("guarded", ["image", "text"])
    outcome = trainings(samples, encoders, tmp_path).outcome(row, 0, 0, part)
    alone = np.asarray(outcome["withheld"]["text"])
    pictures = [samples["image"][int(i)] for i in part.test]
    without_picture = np.asarray([one is None for one in pictures])
    assert np.ptp(alone[without_picture], axis=0).max() == 0
    both = np.asarray(outcome["logits"])
    texts = np.asarray([samples["text"][int(i)] is None for i in part.test])
    # Where the text is missing anyway, to withhold it changes nothing.
    np.testing.assert_allclose(alone[texts], both[texts], atol=1e-5)
    assert np.abs(alone - both)[~texts & ~without_picture].max() > 1e-3


def test_what_was_stored_is_bound_to_all_that_made_it(samples, encoders, tmp_path, monkeypatch):
    part = part_of(samples)
    (row,) = rows_of("text", ["image", "text"])
    first = trainings(samples, encoders, tmp_path)
    outcome = first.outcome(row, 0, 0, part)
    trained = []
    own = Trainings._train
    monkeypatch.setattr(Trainings, "_train", lambda self, *a: trained.append(1) or own(self, *a))
    assert trainings(samples, encoders, tmp_path).outcome(row, 0, 0, part) == outcome
    assert not trained
    tokenizer = encoders.tokenizer
    # `encoders` is shared by other tests, so the changed encoder is a new one.
    torch.manual_seed(1)
    text = TextEncoder(tiny_config("bert", **WIDTHS, vocab_size=len(tokenizer))).freeze()
    texts = list(samples["text"])
    texts[int(part.train[0])] = "another text"
    other = samples.remove_columns("text").add_column("text", texts)
    labels = list(samples["label"])
    labels[0] = (labels[0] + 1) % 4
    relabelled = samples.remove_columns("label").add_column(
        "label", labels, feature=samples.features["label"]
    )
    changed = [
        (samples, replace(encoders, text=text), {}, row, 0, part),
        (samples, replace(encoders, max_length=5), {}, row, 0, part),
        (other, encoders, {}, row, 0, part),
        (relabelled, encoders, {}, row, 0, part),
        (samples, encoders, {"learning_rate": 0.1}, row, 0, part),
        (samples, encoders, {}, row, 1, part),
        (samples, encoders, {}, row, 0, parts_of(samples, 2, 0, text="text")[1]),
    ]
    for number, (rows, given, options, asked, seed, fold) in enumerate(changed, start=1):
        trainings(rows, given, tmp_path, **options).outcome(asked, seed, 0, fold)
        assert len(trained) == number


def test_a_half_written_outcome_is_passed_over(samples, encoders, tmp_path):
    part = part_of(samples)
    (row,) = rows_of("majority", ["image", "text"])
    outcome = trainings(samples, encoders, tmp_path).outcome(row, 0, 0, part)
    (stored,) = (tmp_path / "answers").glob("*.json")
    stored.with_suffix(".part").write_text(stored.read_text()[:20])
    stored.unlink()
    assert (
        trainings(samples, encoders, tmp_path).outcome(row, 0, 0, part)["logits"]
        == (outcome["logits"])
    )
    assert json.loads(next((tmp_path / "answers").glob("*.json")).read_text())


@pytest.mark.parametrize("cached", [False, True])
def test_without_leaves_the_other_columns_alone(cached, samples, encoders, tmp_path):
    one = trainings(samples, encoders, tmp_path)
    (row,) = rows_of("concat", ["image", "text"])
    rows = samples.select_columns(["image", "text", "label", "group"])
    if cached:
        rows, _ = cache_features(*one._compose(row), rows, tmp_path / "cache")
    changed = without(rows, "text")
    for index in (0, 5):
        before, after = rows[index], changed[index]
        assert after["text_cached" if cached else "text"] is None
        assert after["label"] == before["label"] and after["group"] == before["group"]
        if not cached:
            assert after["image"] == before["image"]


def test_several_labels_are_compared_too(samples, encoders, tmp_path):
    labels = [[float(i % 2), float(i % 3 == 0) if i % 5 else float("nan")] for i in range(48)]
    feature = datasets.List(datasets.Value("float32"), length=2)
    many = samples.remove_columns("label").add_column("label", labels, feature=feature)
    one = trainings(many, encoders, tmp_path)
    part = parts_of(many, 2, 0, text="text")[0]
    for row in rows_of(["majority", "tfidf", "image", "late"], ["image", "text"]):
        assert np.isfinite(one.outcome(row, 0, 0, part)["logits"]).all()


def test_copies_of_a_picture_in_two_groups_are_counted(samples, encoders, tmp_path):
    assert trainings(samples, encoders, tmp_path).copies() == 0
    pictures = list(samples["image"])
    present = [row for row, one in enumerate(pictures) if one is not None]
    first, second = present[0], present[-1]
    assert samples["group"][first] != samples["group"][second]
    pictures[second] = pictures[first]
    copied = samples.remove_columns("image").add_column("image", pictures)
    assert trainings(copied, encoders, tmp_path).copies() == 1
