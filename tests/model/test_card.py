"""The card travels with the weights, and tells of no other weights than these."""

import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import RemoteEntryNotFoundError

from mmfusion import FusionClassifier, model_card, write_card
from mmfusion.model.card import CARD, MARK, read_card
from mmfusion.testing import tiny_classifier


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of the hub; it holds one folder for each repository and branch."""
    root = tmp_path / "hub"

    def place(name: str, branch: str | None) -> Path:
        return root / name / (branch or "main")

    def create_repo(self: HfApi, repo_id: str, **_: Any) -> Any:
        place(f"me/{repo_id}", None).mkdir(parents=True, exist_ok=True)
        return type("Repository", (), {"repo_id": f"me/{repo_id}"})

    def create_branch(self: HfApi, repo_id: str, *, branch: str, exist_ok: bool) -> None:
        assert exist_ok
        place(repo_id, branch).mkdir(exist_ok=True)

    def hf_hub_download(
        self: HfApi, repo_id: str, filename: str, *, revision: str | None, local_dir: str
    ) -> str:
        file = place(repo_id, revision) / filename
        if not file.exists():
            response = httpx.Response(404, request=httpx.Request("GET", "https://hub"))
            raise RemoteEntryNotFoundError("no such file", response=response)
        return shutil.copy(file, local_dir)

    def upload_folder(
        self: HfApi,
        *,
        repo_id: str,
        folder_path: str,
        ignore_patterns: list[str] | None,
        revision: str | None = None,
        **_: Any,
    ) -> str:
        ignored = shutil.ignore_patterns(*(ignore_patterns or ()))
        target = place(repo_id, revision)
        shutil.copytree(folder_path, target, ignore=ignored, dirs_exist_ok=True)
        return f"https://hub/{repo_id}"

    for method in (create_repo, create_branch, hf_hub_download, upload_folder):
        monkeypatch.setattr(HfApi, method.__name__, method)
    return root / "me"


def classifier() -> FusionClassifier:
    return tiny_classifier(image=None, text="bert").eval()


def test_save_pretrained_writes_a_card_of_the_model_alone(tmp_path: Path) -> None:
    classifier().save_pretrained(tmp_path)
    card = read_card(tmp_path)
    assert card is not None and MARK in card
    for said in ("| text encoder |", "No figures were measured.", "Not looked for"):
        assert said in card


def test_a_card_goes_from_folder_to_folder(tmp_path: Path) -> None:
    model = classifier()
    model.card = model_card(model, license="mit", limits=["Adults alone."])
    model.save_pretrained(tmp_path / "a")
    FusionClassifier.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    assert read_card(tmp_path / "b") == model.card
    found, _ = FusionClassifier.from_pretrained(tmp_path / "a", output_loading_info=True)
    assert found.card == model.card


def test_training_mode_discards_the_card_of_the_weights_before(tmp_path: Path) -> None:
    model = classifier()
    model.card = model_card(model, limits=["Adults alone."])
    assert model.eval().card is not None
    model.train()
    model.eval().save_pretrained(tmp_path)
    assert "Adults alone." not in str(read_card(tmp_path))


def test_a_person_s_card_is_kept(tmp_path: Path) -> None:
    (tmp_path / CARD).write_text("My card.")
    model = classifier()
    model.save_pretrained(tmp_path)
    assert not write_card(tmp_path, model_card(model))
    assert read_card(tmp_path) == "My card."
    # It travels as well.
    FusionClassifier.from_pretrained(tmp_path).save_pretrained(tmp_path / "b")
    assert read_card(tmp_path / "b") == "My card."


def test_no_card_is_read_of_a_folder_without_one_or_of_a_file_too_long(tmp_path: Path) -> None:
    assert read_card(tmp_path) is None
    (tmp_path / CARD).write_text("x" * 1_000_001)
    assert read_card(tmp_path) is None


def test_push_to_hub_carries_weights_and_card(hub: Path, tmp_path: Path) -> None:
    model = classifier()
    model.card = model_card(model, license="mit")
    assert model.push_to_hub("lungs", private=True) == "https://hub/me/lungs"
    assert {"config.json", "model.safetensors", CARD} <= {
        path.name for path in (hub / "lungs/main").iterdir()
    }
    assert read_card(hub / "lungs/main") == model.card
    model.save_pretrained(tmp_path / "other", push_to_hub=True, revision="draft")
    assert read_card(hub / "other/draft") == read_card(tmp_path / "other") == model.card
    assert not (hub / "other/main" / CARD).exists()


STUB = "# Model Card\nThis model card has been automatically generated."


@pytest.mark.parametrize(
    ("there", "has_card", "stays"),
    [
        ("My card.", True, True),
        (f"{MARK}\nof older weights", True, False),
        # A card of the model alone replaces nothing but transformers' own.
        (f"{MARK}\nwith figures", False, True),
        (STUB, True, False),
        (STUB, False, False),
    ],
)
def test_a_card_on_the_hub(there: str, has_card: bool, stays: bool, hub: Path) -> None:
    (hub / "lungs/main").mkdir(parents=True)
    (hub / "lungs/main" / CARD).write_text(there)
    model = classifier()
    if has_card:
        model.card = model_card(model, license="mit")
    model.push_to_hub("lungs")
    card = read_card(hub / "lungs/main")
    assert (card == there) == stays
    assert (hub / "lungs/main/model.safetensors").exists()
    if not stays:
        assert card is not None and MARK in card and ("license: mit" in card) == has_card
