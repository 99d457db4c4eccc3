"""The public names: they load lazily, and load no heavy package that they do not need."""

import importlib
import subprocess
import sys

import pytest

import mmfusion


def loaded_after(statement: str) -> set[str]:
    """Returns the top-level modules that a new interpreter has loaded after the statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(answer.stdout.split())


def test_importing_the_library_loads_nothing_heavy() -> None:
    loaded = loaded_after("import mmfusion; dir(mmfusion); mmfusion.__version__")
    assert "mmfusion" in loaded
    assert not loaded & {
        "torch",
        "transformers",
        "timm",
        "keras",
        "tensorflow",
        "numpy",
        "PIL",
        "datasets",
        "sklearn",
    }


def test_the_classifier_loads_no_keras_and_no_tensorflow() -> None:
    loaded = loaded_after("from mmfusion import FusionClassifier, FusionProcessor")
    assert {"torch", "transformers"} <= loaded
    assert not loaded & {"keras", "tensorflow", "pydicom", "matplotlib", "typer", "statsmodels"}


def test_a_classifier_without_adapters_loads_no_peft() -> None:
    loaded = loaded_after(
        "from transformers import BertConfig\n"
        "from mmfusion import FusionClassifier\n"
        "config = BertConfig(hidden_size=4, num_hidden_layers=1, num_attention_heads=1)\n"
        "FusionClassifier(text_encoder=config).state_dict()"
    )
    assert "mmfusion" in loaded and "peft" not in loaded


@pytest.mark.parametrize("name", [name for name in mmfusion.__all__ if name != "__version__"])
def test_every_public_name_is_there(name: str) -> None:
    value = getattr(mmfusion, name)
    assert value is getattr(importlib.import_module(f"mmfusion.{mmfusion._HOME[name]}"), name)
    assert value.__doc__ and name in dir(mmfusion)


def test_a_near_miss_is_answered_with_the_right_name() -> None:
    with pytest.raises(
        AttributeError,
        match="module 'mmfusion' has no attribute 'FusionClasifier'. "
        "Did you mean 'FusionClassifier'",
    ):
        mmfusion.FusionClasifier  # noqa: B018
    with pytest.raises(AttributeError, match="has no attribute 'zzzzzz'.$"):
        mmfusion.zzzzzz  # noqa: B018
