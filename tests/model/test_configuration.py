"""FusionConfig: the values that it accepts or refuses, and its way through JSON."""

import json
from pathlib import Path
from typing import Any

import pytest

from mmfusion.model.configuration import EncoderConfig, FusionConfig, named_options


def test_names_become_descriptions() -> None:
    config = FusionConfig(
        image_encoder="resnet18", text_encoder="some/text", mapper="mlp", fusion="late"
    )
    assert config.image_encoder == EncoderConfig("resnet18")
    assert config.text_encoder == EncoderConfig("some/text")
    assert config.mapper == {"name": "mlp"}
    assert config.fusion == {"name": "late"}


def test_defaults() -> None:
    config = FusionConfig()
    assert (config.mapper, config.fusion, config.num_labels) == (
        {"name": "linear"},
        {"name": "concat"},
        2,
    )
    assert (config.modality_dropout, config.auxiliary_loss_weight, config.head_dropout) == (0, 0, 0)
    assert (
        config.image_encoder is None
        and config.text_encoder is None
        and config.class_weights is None
    )


def full() -> FusionConfig:
    return FusionConfig(
        image_encoder={"name": "resnet18", "source": "timm", "options": {"in_chans": 1}},
        text_encoder="some/text",
        mapper={"name": "cross_attention", "num_queries": 4},
        fusion={"name": "mmtm", "blocks": [[0, 1], [2, 2]]},
        id2label={0: "normal", 1: "lung", 2: "other"},
        class_weights=[1, 0.5, 2.0],
        modality_dropout=0.25,
        auxiliary_loss_weight=0.5,
        head_dropout=0.1,
        problem_type="multi_label_classification",
    )


FIELDS = (
    "image_encoder",
    "text_encoder",
    "mapper",
    "fusion",
    "class_weights",
    "modality_dropout",
    "auxiliary_loss_weight",
    "head_dropout",
    "problem_type",
    "id2label",
    "label2id",
    "num_labels",
)


def test_round_trip_through_json_text() -> None:
    config = full()
    again = FusionConfig.from_dict(json.loads(config.to_json_string()))
    assert {name: getattr(again, name) for name in FIELDS} == {
        name: getattr(config, name) for name in FIELDS
    }


def test_round_trip_through_a_folder(tmp_path: Path) -> None:
    config = full()
    config.save_pretrained(tmp_path)
    again = FusionConfig.from_pretrained(tmp_path)
    assert {name: getattr(again, name) for name in FIELDS} == {
        name: getattr(config, name) for name in FIELDS
    }
    assert again.label2id == {"normal": 0, "lung": 1, "other": 2}


@pytest.mark.parametrize("whole", [True, False])
def test_a_config_without_the_new_options_is_written_as_before(whole: bool) -> None:
    """Also where every default is written: a binding of an earlier version must still fit."""
    config = full()
    plain = json.loads(config.to_json_string(use_diff=not whole))
    assert not {"pos_weight", "focal_gamma"} & set(plain) and "class_weights" in plain
    config.pos_weight, config.focal_gamma = [1.0, 2.0, 3.0], 2.0
    added = json.loads(config.to_json_string(use_diff=not whole))
    assert added == plain | {"pos_weight": [1.0, 2.0, 3.0], "focal_gamma": 2.0}
    again = FusionConfig.from_dict(added)
    assert (again.pos_weight, again.focal_gamma) == ([1.0, 2.0, 3.0], 2.0)
    assert FusionConfig.from_dict(plain).focal_gamma == 0


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("fuson", "fusion"),
        ("image_encodr", "image_encoder"),
        ("class_weight", "class_weights"),
        ("num_label", "num_labels"),
        ("modality_drop_out", "modality_dropout"),
    ],
)
def test_misspelt_option_is_refused_and_the_right_one_named(wrong: str, right: str) -> None:
    with pytest.raises(ValueError, match=f"no option '{wrong}'. Did you mean '{right}'"):
        FusionConfig(**{wrong: 1})


def test_misspelt_option_in_a_saved_file_is_refused(tmp_path: Path) -> None:
    full().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    content = json.loads(file.read_text())
    content["head_dropuot"] = content.pop("head_dropout")
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="no option 'head_dropuot'. Did you mean 'head_dropout'"):
        FusionConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modality_dropout": 1}, r"modality_dropout must be in \[0, 1\), got 1"),
        ({"modality_dropout": -0.1}, r"modality_dropout must be in \[0, 1\), got -0.1"),
        ({"head_dropout": 1.5}, r"head_dropout must be in \[0, 1\), got 1.5"),
        ({"auxiliary_loss_weight": -1.0}, "auxiliary_loss_weight must be at least 0, got -1.0"),
        (
            {"auxiliary_loss_weight": float("nan")},
            "auxiliary_loss_weight must be at least 0, got nan",
        ),
        ({"class_weights": [1.0]}, "class_weights must be 2 positive numbers, got"),
        ({"class_weights": [1.0, 0.0]}, "class_weights must be 2 positive numbers, got"),
        ({"class_weights": [1.0, float("inf")]}, "class_weights must be 2 positive numbers, got"),
        (
            {"class_weights": "balancd"},
            "class_weights must be 'balanced' or 2 positive numbers, got 'balancd'. Did you mean",
        ),
        (
            {"class_weights": "balanced", "problem_type": "multi_label_classification"},
            "class_weights must be numbers for a multi-label problem.* Use pos_weight='balanced'",
        ),
        (
            {"pos_weight": [1.0, 2.0]},
            "pos_weight must be None where each sample has one class, got .* Use class_weights",
        ),
        (
            {"pos_weight": [1.0], "problem_type": "multi_label_classification"},
            "pos_weight must be 2 positive numbers, got",
        ),
        (
            {"pos_weight": [1.0, -1.0], "problem_type": "multi_label_classification"},
            "pos_weight must be 2 positive numbers, got",
        ),
        ({"focal_gamma": -0.5}, "focal_gamma must be a number of at least 0, got -0.5"),
        ({"focal_gamma": float("nan")}, "focal_gamma must be a number of at least 0, got nan"),
        ({"num_labels": 0}, "num_labels must be at least 1, got 0"),
        ({"num_labels": "three"}, "num_labels must be at least 1, got 'three'"),
        (
            {"id2label": {0: "a", 2: "b"}},
            r"id2label must be keyed 0 .. 1 without a gap, got \[0, 2\]",
        ),
        ({"id2label": {0: "a", 1: "a"}}, "id2label must be a different name per class"),
        (
            {"id2label": {0: "a", 1: "b"}, "num_labels": 3},
            r"num_labels must be the length of id2label \(2\), got 3",
        ),
        ({"mapper": {"hidden_dim": 3}}, "mapper must be a mapping with a 'name'"),
        ({"fusion": {"name": 3}}, "fusion must be a mapping with a 'name'"),
        ({"image_encoder": {}}, "image_encoder must be a mapping with a 'name'"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FusionConfig(**options)


@pytest.mark.parametrize(
    "options", [{"fusion": 3}, {"modality_dropout": "much"}, {"problem_type": "regression"}]
)
def test_values_of_another_type_are_refused(options: dict[str, Any]) -> None:
    # The strict dataclasses of huggingface_hub raise their own error, which names the field.
    with pytest.raises(Exception, match=next(iter(options))):
        FusionConfig(**options)


def test_id2label_with_text_keys_as_json_writes_them() -> None:
    config = FusionConfig(id2label={"0": "a", "1": "b", "2": "c"})
    assert config.num_labels == 3 and config.id2label == {0: "a", 1: "b", 2: "c"}


def test_named_options_copies_and_checks() -> None:
    given = {"name": "late", "combine": "mean"}
    copied = named_options(given, field="fusion")
    assert copied == given and copied is not given
    with pytest.raises(TypeError, match="fusion must be a name or a mapping with a 'name', got 3"):
        named_options(3, field="fusion")  # type: ignore[arg-type]


def test_one_label_is_yes_or_no_and_never_the_only_class() -> None:
    with pytest.raises(ValueError, match=r"num_labels must be at least 2 .* got 1\. Give both"):
        FusionConfig(image_encoder="resnet18", num_labels=1)
    config = FusionConfig(num_labels=1, problem_type="multi_label_classification")
    assert config.num_labels == 1
