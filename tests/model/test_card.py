"""The card travels with the weights, and tells of no other weights than these."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import httpx
import pytest
from huggingface_hub import HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import RemoteEntryNotFoundError
from transformers.modelcard import TrainingSummary

from mmfusion import FusionClassifier, model_card, write_card
from mmfusion.model.card import CARD, MARK, read_card
from mmfusion.testing import tiny_classifier


@final
class Hub:
    """Folders in the place of a hub, one for each repository and branch, and what it was asked."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: dict[str, dict[str, Any]] = {}

    def place(self, name: str, branch: str | None = None) -> Path:
        folder = self.root / name / (branch or "main")
        assert folder.exists() or branch is None, f"there is no branch {branch}"
        return folder

    def create_repo(self, api: HfApi, repo_id: str, **options: Any) -> Any:
        self.asked["create_repo"] = options | {"token": api.token}
        self.place(f"me/{repo_id}").mkdir(parents=True, exist_ok=True)
        return type("Repository", (), {"repo_id": f"me/{repo_id}"})

    def create_branch(self, api: HfApi, repo_id: str, *, branch: str, exist_ok: bool) -> None:
        assert exist_ok and not branch.startswith("refs/")
        (self.root / repo_id / branch).mkdir(exist_ok=True)

    def hf_hub_download(
        self, api: HfApi, repo_id: str, filename: str, *, revision: str | None, local_dir: str
    ) -> str:
        file = self.place(repo_id, revision) / filename
        if not file.exists():
            response = httpx.Response(404, request=httpx.Request("GET", "https://hub"))
            raise RemoteEntryNotFoundError("no such file", response=response)
        return shutil.copy(file, local_dir)

    def upload_folder(
        self,
        api: HfApi,
        *,
        repo_id: str,
        folder_path: str,
        ignore_patterns: list[str] | None,
        revision: str | None = None,
        **options: Any,
    ) -> str:
        self.asked["upload_folder"] = options
        ignored = shutil.ignore_patterns(*(ignore_patterns or ()))
        target = self.place(repo_id, revision)
        shutil.copytree(folder_path, target, ignore=ignored, dirs_exist_ok=True)
        return f"https://hub/{repo_id}"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path / "hub")
    for name in ("create_repo", "create_branch", "hf_hub_download", "upload_folder"):
        method = getattr(made, name)
        monkeypatch.setattr(HfApi, name, lambda api, *args, _m=method, **kw: _m(api, *args, **kw))
    return made


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


def test_a_link_is_neither_read_nor_written_through(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("TOKEN")
    folder, dangling = tmp_path / "a", tmp_path / "b"
    model = classifier()
    for place, target in ((folder, "../secret"), (dangling, "../nothing")):
        place.mkdir()
        (place / CARD).symlink_to(target)
        model.save_pretrained(place)
        assert FusionClassifier.from_pretrained(place).card is None
    assert (tmp_path / "secret").read_text() == "TOKEN" and not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_left_alone(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / CARD)
    classifier().save_pretrained(tmp_path)
    assert FusionClassifier.from_pretrained(tmp_path).card is None
    assert not (tmp_path / CARD).is_file()


def test_the_card_of_a_subfolder(tmp_path: Path) -> None:
    (tmp_path / CARD).write_text("Of the repository.")
    classifier().save_pretrained(tmp_path / "sub")
    model = FusionClassifier.from_pretrained(tmp_path, subfolder="sub")
    assert model.card == read_card(tmp_path / "sub")


def test_another_process_writes_no_card(tmp_path: Path) -> None:
    classifier().save_pretrained(tmp_path, is_main_process=False)
    assert not (tmp_path / CARD).exists()


def test_push_to_hub_carries_weights_and_card(hub: Hub, tmp_path: Path) -> None:
    model = classifier()
    model.card = model_card(model, license="mit")
    told = {"commit_message": "first", "commit_description": "of all", "create_pr": True}
    address = model.push_to_hub("lungs", private=True, token="secret", **told)
    assert address == "https://hub/me/lungs"
    assert hub.asked == {
        "create_repo": {"private": True, "exist_ok": True, "token": "secret"},
        "upload_folder": told,
    }
    there = hub.place("me/lungs")
    assert {path.name for path in there.iterdir()} == {"config.json", "model.safetensors", CARD}
    assert read_card(there) == model.card


def test_save_pretrained_uploads_nothing_but_the_model(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/test_predictions.csv").write_text("patients")
    model = classifier()
    model.card = model_card(model, license="mit")
    model.save_pretrained(tmp_path / "runs", push_to_hub=True, revision="draft")
    there = hub.place("me/runs", "draft")
    assert {path.name for path in there.iterdir()} == {"config.json", "model.safetensors", CARD}
    assert read_card(there) == read_card(tmp_path / "runs") == model.card
    assert not list(hub.place("me/runs").iterdir())
    # By place, as transformers takes it.
    model.save_pretrained(tmp_path / "other", True, None, True)
    assert read_card(hub.place("me/other")) == model.card


def test_a_pull_request_is_no_new_branch_and_its_own_card_counts(hub: Hub) -> None:
    hub.create_repo(HfApi(), "lungs")
    request = hub.root / "me/lungs/refs/pr/1"
    request.mkdir(parents=True)
    (request / CARD).write_text("My card.")
    classifier().push_to_hub("lungs", revision="refs/pr/1")
    assert (request / "model.safetensors").exists() and read_card(request) == "My card."


def stub() -> str:
    """Returns what transformers writes for a repository without a card."""
    about = "This model card has been automatically generated."
    return str(ModelCard.from_template(ModelCardData(), model_description=about))


def of_the_trainer(folder: Path) -> str:
    summary = TrainingSummary("lungs", eval_results={"loss": 1.0}, hyperparameters={"seed": 0})
    return str(summary.to_model_card())


@pytest.mark.parametrize(
    ("there", "has_card", "stays"),
    [
        ("My card.", True, True),
        (f"{MARK}\nof older weights", True, False),
        # A card of the model alone replaces nothing but what transformers wrote.
        (f"{MARK}\nwith figures", False, True),
        ("stub", True, False),
        ("stub", False, False),
        ("filled", True, True),
        ("quoted: This model card has been automatically generated.", True, True),
        ("trainer", False, False),
        ("trainer, filled", True, True),
    ],
)
def test_a_card_on_the_hub(
    there: str, has_card: bool, stays: bool, hub: Hub, tmp_path: Path
) -> None:
    texts = {"stub": stub(), "trainer": of_the_trainer(tmp_path)}
    texts["filled"] = stub().replace("[More Information Needed]", "Adults.", 1)
    texts["trainer, filled"] = texts["trainer"].replace("More information needed", "Adults.", 1)
    there = texts.get(there, there)
    hub.create_repo(HfApi(), "lungs")
    (hub.place("me/lungs") / CARD).write_text(there)
    model = classifier()
    if has_card:
        model.card = model_card(model, license="mit")
    model.push_to_hub("lungs")
    card = read_card(hub.place("me/lungs"))
    assert (card == there) == stays
    assert (hub.place("me/lungs") / "model.safetensors").exists()
    if not stays:
        assert card is not None and MARK in card and ("license: mit" in card) == has_card
    # A folder is treated as the hub is, only that a model of its own has nothing to protect.
    (tmp_path / CARD).write_text(there)
    assert write_card(tmp_path, "new") == (not stays or MARK in there)
