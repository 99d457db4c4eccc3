"""The model card beside the weights: written by `save_pretrained`, carried by `push_to_hub`."""

import os
import tempfile
from abc import ABC
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from huggingface_hub import HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import RemoteEntryNotFoundError
from transformers import PreTrainedModel

from .printing import printable

CARD = "README.md"
MARK = (
    "<!-- written by mmfusion: a new training writes it anew. Delete this line to keep yours. -->"
)
_BY_TRANSFORMERS = "This model card has been automatically generated."
_BY_TRAINER = "This model card has been generated automatically"
_GAP, _GAP_OF_TRAINER = "[More Information Needed]", "More information needed"
"""Sentences of the cards that transformers and its Trainer write, and the gaps they leave."""

_LARGEST = 1_000_000
"""The most characters that are read of a card. A longer file is none."""

_LIMITS = (
    "For research. Not a medical device: do not use it to diagnose or treat anyone.",
    "The figures hold for samples like those of the test part. Measure it on your own samples "
    "before you trust it: `mmfusion evaluate`.",
    "A heat map or the weight of a word describes the model. It proves no cause.",
)
_OF_HUB = (
    "repo_id",
    "commit_message",
    "commit_description",
    "private",
    "token",
    "revision",
    "create_pr",
)


class CardedModel(PreTrainedModel, ABC):
    """A model whose folder holds a model card.

    Attributes:
        card: the card in Markdown, as `model_card` returns it. `fit` sets it, and a folder that is
            loaded brings its own. With None, a card is written that tells of the model alone.
            Training mode discards it, because it tells of the weights before.
    """

    card: str | None = None

    def train(self, mode: bool = True) -> Self:
        """Sets the mode, as `torch.nn.Module` does. Training mode discards the card.

        Args:
            mode: whether to train.
        """
        if mode:
            self.card = None
        return super().train(mode)

    @classmethod
    # transformers spells out a dozen of these keywords.
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> Any:
        """Returns what transformers returns, with the card of the folder.

        Args:
            pretrained_model_name_or_path: a folder or a hub name; a hub's card is not read.
            *args: as transformers takes them.
            **kwargs: as transformers takes them.
        """
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        folder = Path(pretrained_model_name_or_path, kwargs.get("subfolder") or "")
        model.card = read_card(folder)
        return loaded

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: dict[str, Any] | None = None,
        push_to_hub: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Writes config, weights and card into a folder.

        A card that a person wrote is kept.

        Args:
            save_directory: the folder; made if it does not exist.
            is_main_process: whether this process writes.
            state_dict: as transformers takes it.
            push_to_hub: whether to upload config, weights and card, too, as the method
                `push_to_hub` does. Other files of the folder stay here.
            *args: as transformers takes them.
            **kwargs: as transformers and `push_to_hub` take them.
        """
        hub = {name: kwargs.pop(name) for name in _OF_HUB if push_to_hub and name in kwargs}
        super().save_pretrained(save_directory, is_main_process, state_dict, False, *args, **kwargs)
        if not is_main_process:
            return
        write_card(save_directory, self.card or render_card(self))
        if push_to_hub:
            hub.setdefault("repo_id", Path(save_directory).name)
            self.push_to_hub(**hub)

    # transformers takes tags, too. Here they are lines of the card.
    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str = "50GB",
    ) -> str:
        """Uploads config, weights and card to a repository of the Hugging Face hub.

        A card that a person wrote there is kept. So is any card there while this model has none of
        its own. The processor has a `push_to_hub`, too.

        Args:
            repo_id: the repository, "name" or "organisation/name"; made if it does not exist.
            commit_message: of the upload.
            commit_description: of the upload.
            private: whether a new repository is private; None: as the organisation has it.
            token: to sign in with; None: the one that is stored on this machine.
            revision: the branch.
            create_pr: whether to propose the upload instead of making it.
            max_shard_size: of a file of weights.

        Returns:
            The address of the upload.

        Raises:
            huggingface_hub.errors.HfHubHTTPError: if the hub refuses it.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, max_shard_size=max_shard_size)
            return _upload(
                folder,
                repo_id,
                has_card=self.card is not None,
                commit_message=commit_message,
                commit_description=commit_description,
                private=private,
                token=token,
                revision=revision,
                create_pr=create_pr,
            )


def render_card(
    model: Any,
    *,
    license: str | None = None,
    samples: Sequence[str] = ("Unknown.",),
    figures: Sequence[str] = ("No figures were measured.",),
    leaks: Sequence[str] = ("Not looked for: `mmfusion audit` does.",),
    limits: Sequence[str] = (),
    made: Sequence[str] = ("Unknown.",),
) -> str:
    """Returns the card of a classifier in Markdown, with the header that hubs read.

    Args:
        model: the classifier.
        license: of the weights, as hubs name it.
        samples: lines on the samples.
        figures: lines on what was measured.
        leaks: lines on what the parts share.
        limits: sentences on what it must not be used for, beside those of every card.
        made: lines on how it was made.
    """
    tags = ["image-text-classification", *model.modalities]
    lines = ["---", f"license: {license or 'unknown'}", "library_name: mmfusion", "tags:"]
    lines += [*(f"- {tag}" for tag in tags), "---", "", MARK, "", "# Model card", ""]
    lines += ["## Model", "", *_model(model), ""]
    lines += ["## Samples", "", *samples, ""]
    lines += ["## Figures", "", *figures, ""]
    lines += ["## Leaks", "", *leaks, ""]
    lines += ["## Limits", "", *(f"- {one}" for one in (*_LIMITS, *limits)), ""]
    lines += ["## Made by", "", *made]
    return "\n".join(lines) + "\n"


def write_card(folder: str | os.PathLike[str], card: str) -> bool:
    """Writes a card into a folder, unless a person wrote the one that is there.

    Args:
        folder: of the model.
        card: as `model_card` returns it.

    Returns:
        Whether it was written.
    """
    path = Path(folder) / CARD
    if path.is_symlink() or path.exists():
        there = read_card(folder)
        if there is None or not _may_replace(there):
            return False
    path.write_text(card, encoding="utf-8")
    return True


def read_card(folder: str | os.PathLike[str]) -> str | None:
    """Returns the card of a folder; None where there is none.

    A file too long for a card is none, and neither is a link, which may lead to any file.

    Args:
        folder: of a model, or the name of a repository.
    """
    path = Path(folder) / CARD
    try:
        if path.is_symlink() or not path.is_file():
            return None
        with path.open(encoding="utf-8", errors="replace") as file:
            card = file.read(_LARGEST + 1)
    except OSError:
        return None
    return card if len(card) <= _LARGEST else None


def cell(value: object) -> str:
    """Returns a value for a cell of a Markdown table.

    Args:
        value: anything.
    """
    return printable(str(value)).replace("|", "\\|")


def _may_replace(card: str) -> bool:
    """Returns whether no person wrote a card."""
    return MARK in card or _is_stub(card)


def _is_stub(card: str) -> bool:
    """Returns whether transformers wrote a card, and nobody has filled in anything."""
    if _BY_TRAINER in card:
        # Description, intended uses, and data.
        return card.count(_GAP_OF_TRAINER) >= 3
    template = ModelCard.from_template(ModelCardData(), model_description="").content
    return _BY_TRANSFORMERS in card and card.count(_GAP) >= template.count(_GAP)


def _upload(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    has_card: bool,
    private: bool | None = None,
    token: bool | str | None = None,
    **options: Any,
) -> str:
    """Uploads a folder, and returns the address of the commit.

    Args:
        folder: what to upload.
        repo_id: the repository; made if it does not exist.
        has_card: whether the card in the folder tells more than the model does.
        private: as `HfApi.create_repo` takes it.
        token: as `HfApi.create_repo` takes it.
        **options: as `HfApi.upload_folder` takes them.
    """
    hub = HfApi(token=token)
    name = hub.create_repo(repo_id, private=private, exist_ok=True).repo_id
    branch = options.get("revision")
    if branch is not None and not branch.startswith("refs/pr"):
        hub.create_branch(name, branch=branch, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory() as kept:
            there = hub.hf_hub_download(name, CARD, revision=branch, local_dir=kept)
            card = Path(there).read_text(encoding="utf-8", errors="replace")
    except RemoteEntryNotFoundError:
        card = None
    # A card of the model alone replaces nothing but what transformers wrote.
    replaced = card is None or _is_stub(card) or (has_card and _may_replace(card))
    uploaded = hub.upload_folder(
        repo_id=name,
        folder_path=os.fspath(folder),
        ignore_patterns=None if replaced else [CARD],
        **options,
    )
    return str(uploaded)


def _model(model: Any) -> list[str]:
    rows = []
    for name in model.modalities:
        encoder = getattr(model, f"{name}_encoder")
        known = encoder.config.name or type(encoder.backbone).__name__
        size = sum(p.numel() for p in encoder.parameters()) / 1e6
        state = "frozen" if encoder.is_frozen else "trained"
        rows.append((f"{name} encoder", f"{Path(str(known)).name}, {size:.1f} M, {state}"))
    if len(model.modalities) == 2:
        rows += [
            ("mapper", model.config.mapper["name"]),
            ("fusion", model.config.fusion["name"]),
        ]
    names = [str(name) for _, name in sorted((model.config.id2label or {}).items())]
    kind = "several may hold" if model.multi_label else "one holds"
    rows.append(("classes", f"{', '.join(names)} ({kind})"))
    temperature = model.config.temperature
    calibrated = "1" if temperature == 1 else f"{temperature:.3f}, chosen on held-out samples"
    rows.append(("temperature", calibrated))
    return ["| | |", "| --- | --- |", *(f"| {key} | {cell(value)} |" for key, value in rows)]
