"""The option --augment of `train` and `compare`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmfusion import Augmentation, TextEncoder
from mmfusion.data.toy import draw_shapes, word_tokenizer
from mmfusion.testing import tiny_config


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_shapes(tmp_path_factory.mktemp("shapes"), 60, size=32)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Returns a list that gets the name of the recipe for each picture that is augmented."""
    names: list[str] = []
    augment = Augmentation.__call__

    def counted(self: Augmentation, image: Any, rng: Any) -> Any:
        names.append(self.name)
        return augment(self, image, rng)

    monkeypatch.setattr(Augmentation, "__call__", counted)
    return names


@pytest.mark.parametrize(
    ("command", "words", "expected"),
    [
        ("train", "--image-encoder resnet10t --augment xrya", "Did you mean 'xray'?"),
        ("compare", "--image-encoder resnet10t --augment xrya", "Did you mean 'xray'?"),
        ("train", "--text-encoder x --augment xray", "must be given with --image-encoder, got"),
        ("compare", "--text-encoder x --augment xray", "must be given with --image-encoder, got"),
        ("train", "--image-encoder resnet10t --augment xray --cache c", "given without --cache"),
    ],
)
def test_an_augmentation_that_cannot_be_applied_is_refused(
    call: Callable[..., str], command: str, words: str, expected: str, table: Path, tmp_path: Path
) -> None:
    said = call(command, table, "--output", tmp_path / "out", *words.split(), code=1)
    assert expected in " ".join(said.split())
    assert not (tmp_path / "out").exists()


def test_train_augments_the_pictures_of_the_training_part_alone(
    call: Callable[..., str], seen: list[str], table: Path, tmp_path: Path
) -> None:
    tokenizer = word_tokenizer(["red", "blue"])
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = TextEncoder(tiny_config("bert", **sizes, vocab_size=len(tokenizer)))
    text.backbone.save_pretrained(tmp_path / "text")
    tokenizer.save_pretrained(tmp_path / "text")
    output = tmp_path / "model"
    call(
        "train", table, "--output", output, "--image-encoder", "test_vit", "--text-encoder",
        tmp_path / "text", "--no-pretrained", "--epochs", 2, "--augment", "photo",
    )  # fmt: skip
    rows = json.loads((output / "split.json").read_text())["rows"]
    # Two models read the pictures of the training part, twice.
    assert len(seen) == 2 * 2 * rows["train"] and set(seen) == {"photo"}


def test_compare_augments_the_rows_with_pictures(
    call: Callable[..., str], seen: list[str], table: Path, tmp_path: Path
) -> None:
    call(
        "compare", table, "--output", tmp_path, "--image-encoder", "test_vit", "--no-pretrained",
        "--rows", "image", "--folds", 2, "--seeds", 1, "--epochs", 1, "--augment", "xray",
    )  # fmt: skip
    assert 40 < len(seen) < 60 and set(seen) == {"xray"}
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["settings"]["augment"] == "Augmentation('xray')"
    assert (
        "Pictures of the training rows are augmented by Augmentation('xray')." in results["notes"]
    )
