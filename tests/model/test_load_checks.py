"""A saved config that leads elsewhere, or that cannot fit its weights, is refused at once."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from mmfusion import FusionClassifier
from mmfusion import testing as kit
from mmfusion.model.load_checks import weight_files


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    kit.tiny_classifier(image="timm_vit", text="bert").save_pretrained(folder)
    return folder


@pytest.fixture
def hostile(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns a function (tower, entries) that makes a folder with other entries of a tower."""

    def nobody(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", nobody)

    def made(tower: str, *path: str, **entries: Any) -> Path:
        for file in saved.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        config = json.loads((saved / "config.json").read_text())
        inner = config[tower] if tower else config
        for key in path:
            inner = inner.setdefault(key, {})
        inner.update(entries)
        (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    return made


def test_what_the_library_writes_is_read(saved: Path) -> None:
    assert FusionClassifier.from_pretrained(saved).config.num_labels == 3


@pytest.mark.parametrize(
    ("place", "entries", "message"),
    [
        (("image_encoder",), {"architecture": "hf-hub:evil/model"}, "plain name of a timm model"),
        (("image_encoder",), {"architecture": "local-dir:/etc"}, "plain name of a timm model"),
        (("image_encoder",), {"architecture": None, "name": "hf-hub:evil/x"}, "plain name of a"),
        (("image_encoder", "options"), {"checkpoint_path": "/x.pth"}, "options.checkpoint_path"),
        (("image_encoder", "options"), {"pretrained": True}, "options.pretrained in config.json"),
        (
            ("image_encoder", "options", "pretrained_cfg_overlay"),
            {"url": "http://evil/x"},
            "pretrained_cfg_overlay.url in config.json must be left out",
        ),
        (
            ("text_encoder",),
            {"backbone": None, "name": "evil/model"},
            "backbone in config.json",
        ),
        (
            ("text_encoder",),
            {"source": None, "name": "evil/model"},
            "be a registered backbone",
        ),
        (
            ("text_encoder", "backbone"),
            {"attn_implementation": "evil/kernel"},
            "backbone.attn_implementation in config.json must be left out",
        ),
        (("",), {"_attn_implementation": "evil/kernel:f"}, "_attn_implementation in config.json"),
        (("text_encoder", "backbone"), {"auto_map": {"AutoModel": "x.Y"}}, "backbone.auto_map"),
        (
            ("text_encoder", "backbone"),
            {"num_hidden_layers": 10**6},
            "num_hidden_layers in config.json must be at most .* got 1000000",
        ),
        (
            ("text_encoder", "backbone"),
            {"hidden_size": 10**6},
            "hidden_size in config.json must be at most 8192, got 1000000",
        ),
        (("image_encoder", "options"), {"depth": 10**6}, "options.depth in config.json must be"),
        (("image_encoder", "options"), {"embed_dim": 10**6}, "embed_dim in config.json must be"),
        (("image_encoder", "options"), {"img_size": 10**6}, "img_size in config.json must be"),
    ],
)
def test_an_entry_that_leads_elsewhere_or_is_too_large_is_refused(
    hostile: Any, place: tuple[str, ...], entries: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        FusionClassifier.from_pretrained(hostile(*place, **entries))


def test_another_number_of_classes_names_the_way(saved: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"num_labels must be 3 \(the classes of .* got 2\. Pass ignore_mismatched_sizes=True",
    ):
        FusionClassifier.from_pretrained(saved, num_labels=2)
    model = FusionClassifier.from_pretrained(saved, num_labels=2, ignore_mismatched_sizes=True)
    assert model(**kit.tiny_batch(model)).logits.shape == (4, 2)
    assert model.config.label2id == {"LABEL_0": 0, "LABEL_1": 1}


def test_the_files_of_weights_in_shards(tmp_path: Path) -> None:
    model = kit.tiny_classifier(image=None, text="bert")
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    whole = weight_files(str(tmp_path / "whole"), "model.safetensors")
    assert whole == [str(tmp_path / "whole" / "model.safetensors")]
    shards = weight_files(str(tmp_path / "shards"), "model.safetensors")
    assert shards == sorted(map(str, (tmp_path / "shards").glob("model-*.safetensors")))
    assert len(shards) > 2
    assert weight_files(str(tmp_path), "model.safetensors") == []
    index = tmp_path / "shards" / "model.safetensors.index.json"
    entries = json.loads(index.read_text())
    Path(shards[1]).unlink()
    with pytest.raises(ValueError, match=f"must hold every file.*{Path(shards[1]).name}"):
        weight_files(str(tmp_path / "shards"), "model.safetensors")
    for damaged in ("{", "[]", "{}", json.dumps(entries | {"weight_map": [1]})):
        index.write_text(damaged)
        with pytest.raises(ValueError, match="must list the files of the weights"):
            weight_files(str(tmp_path / "shards"), "model.safetensors")
