"""Weights from files: they must fit, hold no pickle, and every fault is listed."""

import logging
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

from mmfusion.model.encoder_image import ImageEncoder
from mmfusion.model.load_weights import (
    load_strictly,
    load_weights,
    raise_unless_complete,
    read_weights,
)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(2, 3)
        self.b = nn.Linear(3, 3, bias=False)


def state(seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return dict(Net().state_dict())


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Yields the log records of the library."""
    # The root logger of transformers neither propagates nor shows INFO, so it needs a handler.
    logger = logging.getLogger("transformers")
    mine = logging.getLogger("mmfusion.model.load_weights")
    for one in (logger, mine):
        one.addHandler(caplog.handler)
    before = mine.level
    mine.setLevel(logging.INFO)
    yield caplog
    mine.setLevel(before)
    for one in (logger, mine):
        one.removeHandler(caplog.handler)


def equal(module: nn.Module, expected: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, expected[key]) for key, value in module.state_dict().items())


def test_reads_safetensors_a_state_dict_and_a_mapping(tmp_path: Path) -> None:
    expected = state()
    save_file(expected, tmp_path / "w.safetensors")
    torch.save(expected, tmp_path / "w.pt")
    for source in (tmp_path / "w.safetensors", str(tmp_path / "w.pt"), expected):
        module = Net()
        load_weights(module, source)
        assert equal(module, expected)


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model"])
def test_reads_a_state_dict_inside_a_training_checkpoint(tmp_path: Path, wrapper: str) -> None:
    torch.save({wrapper: state(), "epoch": 3}, tmp_path / "w.pt")
    module = Net()
    load_weights(module, tmp_path / "w.pt")
    assert equal(module, state())


@pytest.mark.parametrize("prefix", ["module.", "model.", "backbone.", "bert.", "vit."])
def test_reads_a_larger_models_checkpoint_behind_its_prefix(prefix: str) -> None:
    wrapped = {prefix + key: value for key, value in state().items()} | {
        "classifier.weight": torch.zeros(2, 3)
    }
    module = Net()
    load_weights(module, wrapped)
    assert equal(module, state())


def test_every_fault_is_listed() -> None:
    wrong = state()
    del wrong["a.bias"]
    wrong["b.weight"] = torch.zeros(4, 3)
    wrong["extra.weight"] = torch.zeros(1)
    with pytest.raises(ValueError) as error:
        load_weights(Net(), wrong)
    message = str(error.value)
    assert "missing: a.bias" in message and "left over: extra.weight" in message
    assert "mis-shaped: b.weight (4, 3) for (3, 3)" in message and message.startswith(
        "weights must fit the model key by key"
    )


def test_nothing_is_loaded_where_something_does_not_fit() -> None:
    module = Net()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(ValueError, match=r"missing: b\.weight"):
        load_weights(module, {key: value for key, value in state(5).items() if key != "b.weight"})
    assert equal(module, before)


def test_a_long_list_is_cut_and_counted() -> None:
    with pytest.raises(ValueError, match=r"k09 and 5 more\. Is it"):
        raise_unless_complete([f"k{i:02}" for i in range(15)], [], [], what="w")
    raise_unless_complete([], [], [], what="w")


def test_a_head_is_dropped_and_logged(log: pytest.LogCaptureFixture) -> None:
    module = Net()
    load_weights(
        module, state() | {"head.weight": torch.zeros(1), "pooler.dense.bias": torch.zeros(1)}
    )
    assert equal(module, state())
    assert "Left out of Net: head.weight, pooler.dense.bias." in log.text


def test_the_file_is_named(tmp_path: Path) -> None:
    save_file({"a.weight": torch.zeros(3, 2)}, tmp_path / "half.safetensors")
    with pytest.raises(
        ValueError, match=r"weights '.*half\.safetensors' must fit .* missing: a\.bias, b\.weight"
    ):
        load_weights(Net(), tmp_path / "half.safetensors")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"got '.*none\.safetensors', which does not exist"):
        read_weights(tmp_path / "none.safetensors")


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_truncated_safetensors_are_named(tmp_path: Path, keep: int) -> None:
    file = tmp_path / "w.safetensors"
    save_file(state(), file)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(
        ValueError, match=r"weights must be an undamaged file of tensors, got '.*w\.safetensors'"
    ):
        read_weights(file)


@pytest.mark.parametrize("name", ["empty.pt", "short.pt", "words.bin"])
def test_a_damaged_state_dict_is_named(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    torch.save(state(), file)
    content = {
        "empty.pt": b"",
        "short.pt": file.read_bytes()[:200],
        "words.bin": b"not weights at all",
    }
    file.write_bytes(content[name])
    with pytest.raises(ValueError, match=rf"weights must be .*, got '.*{name}'"):
        read_weights(file)


class Exploit:
    """A hostile pickle: it runs a command when it is loaded."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (self.target,))  # type: ignore[return-value]


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    torch.save({"a.weight": Exploit(touched)}, tmp_path / "bad.pt")
    with pytest.raises(
        ValueError,
        match=r"weights must be tensors alone, got '.*bad\.pt', a pickle of other objects",
    ):
        read_weights(tmp_path / "bad.pt")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Exploit(touched)))
    with pytest.raises(ValueError, match=r"weights must be .*, got '.*plain\.pkl'"):
        read_weights(tmp_path / "plain.pkl")
    assert not touched.exists()


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(ValueError, match=r"weights must be tensors alone, got '.*module\.pt'"):
        read_weights(tmp_path / "module.pt")


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"a": 3}, torch.zeros(2)])
def test_something_else_than_a_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"weights must be a state dict, got \w+ in '.*w\.pt'"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("missing", "unexpected", "message"),
    [
        (
            ["x"],
            ["classifier.bias"],
            r"missing: x; left over: classifier\.bias; mis-shaped: \('y',",
        ),
        ([], ["classifier.bias"], r"got left over: classifier\.bias; mis-shaped"),
    ],
)
def test_the_info_of_from_pretrained_is_read_strictly(
    missing: list[str], unexpected: list[str], message: str
) -> None:
    info = {
        "missing_keys": missing,
        "unexpected_keys": unexpected,
        "mismatched_keys": [("y", (1,), (2,))],
    }
    with pytest.raises(ValueError, match=message):
        load_strictly(lambda **_: (Net(), info), what="checkpoint 'c'")
    rest = info | {"missing_keys": [], "unexpected_keys": []}
    assert load_strictly(lambda **_: (1, rest), what="c", forgives_shapes=True) == (1, rest)


def test_an_encoder_takes_a_files_weights_strictly(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = ImageEncoder("resnet10t", pretrained=False).backbone.state_dict()
    file = tmp_path / "resnet.safetensors"
    save_file({**whole, "fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}, file)
    assert equal(ImageEncoder("resnet10t", weights=file).backbone, whole)
    del whole["layer1.0.conv1.weight"]
    save_file(whole, file)
    with pytest.raises(ValueError, match=r"missing: layer1\.0\.conv1\.weight"):
        ImageEncoder("resnet10t", weights=file)


class Whole(nn.Module):
    """A model that holds a backbone beside a head with a name of the backbone's own."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = Net()
        self.a = nn.Linear(2, 3)
        self.anything = nn.Linear(3, 3)


def test_whatever_lies_outside_the_backbone_is_a_head(log: pytest.LogCaptureFixture) -> None:
    whole, module = Whole(), Net()
    load_weights(module, {f"wrapped.{k}": v for k, v in whole.state_dict().items()})
    assert equal(module, dict(whole.inside.state_dict()))
    assert "wrapped.anything.weight" in log.text and "wrapped.a.weight" in log.text
    with pytest.raises(ValueError, match=r"left over: b\.extra\."):
        load_weights(Net(), whole.state_dict() | {"inside.b.extra": torch.zeros(1)})


def test_two_copies_of_the_backbone_are_not_chosen_from() -> None:
    both = {
        f"{who}.{key}": value for who in ("student", "teacher") for key, value in state().items()
    }
    with pytest.raises(
        ValueError, match=r"must hold one copy .* got copies under \['student\.', 'teacher\.'\]"
    ):
        load_weights(Net(), both)


def test_a_file_of_transformers_is_read_as_weights(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = ViTConfig(**sizes, intermediate_size=16, image_size=16, patch_size=8)
    whole = ViTForImageClassification(config)
    # The file holds the keys of older versions, which differ from those of the module.
    whole.save_pretrained(tmp_path)
    encoder = ImageEncoder(config, weights=tmp_path / "model.safetensors")
    assert equal(encoder.backbone, dict(whole.vit.state_dict()))
