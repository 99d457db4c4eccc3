"""The model card says what is known, and names no patient."""

import datasets
import numpy as np
from huggingface_hub import ModelCard

from mmfusion import audit, fit, score
from mmfusion.testing import tiny_classifier
from mmfusion.training.card import model_card


def table(*patients: str) -> datasets.Dataset:
    return datasets.Dataset.from_dict(
        {
            "text": [f"secret of {one}" for one in patients[:-1]] + [None],
            "label": [number % 2 for number in range(len(patients))],
            "group": list(patients),
        }
    ).cast_column("label", datasets.ClassLabel(names=["well", "i|ll"]))


def test_it_says_what_was_trained_and_measured() -> None:
    parts = {"train": table("ann", "bob", "cy"), "test": table("bob", "dee")}
    found = score(np.array([[2.0, 0.0], [0.0, 1.0]]), parts["test"])
    text = model_card(
        tiny_classifier("late", "linear", "timm_vit", "bert"),
        parts=parts,
        evaluations={"image+text": found, "text": found},
        audit=audit(parts),
        command="mmfusion train x.csv",
        license="apache-2.0",
        data_license="cc-by-4.0",
        limits=["Adults alone."],
    )
    card = ModelCard(text)
    assert card.data.license == "apache-2.0" and card.data.library_name == "mmfusion"
    assert "| train | 3 | 3 | 3 | 1 | well 2, i\\|ll 1 |" in text
    assert "| test | 2 | 2 | 2 | 1 | well 1, i\\|ll 1 |" in text
    assert "| image+text | 1.000 (" in text and "| fusion | late |" in text
    assert "- error: group across splits, 1 times" in text
    assert "Licence of the samples: cc-by-4.0." in text and "- Adults alone." in text
    assert "`mmfusion train x.csv`" in text
    for patient in ("ann", "bob", "dee", "secret"):
        assert patient not in text


def test_what_is_not_known_is_said() -> None:
    text = model_card(tiny_classifier(image=None, text="bert"))
    for said in (
        "No figures were measured.",
        "Not looked for",
        "The command is unknown.",
        "Unknown.",
    ):
        assert said in text
    assert "fusion" not in text.partition("## Samples")[0].partition("## Model")[2]
    assert ModelCard(text).data.license == "unknown"


def test_a_training_writes_one(tmp_path, rows, compose, quiet):
    model, processor = compose(rows)
    fit(model, processor, rows, arguments=quiet(tmp_path))
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| train | 40 |" in text and "No figures were measured." in text
    assert model.card == text
