"""Every engine gives the logits of the model."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from mmfusion import FusionClassifier, FusionProcessor
from mmfusion.serving.engines import check_engine, make_engine

TEXTS = ["clear lungs", "no", None]

# torch.compile and the check of shapes clash, so this runs in a process without the check.
_COMPILED = """
import numpy as np, torch
from mmfusion import FusionProcessor
from mmfusion.data.toy import word_tokenizer
from mmfusion.serving.engines import make_engine
from mmfusion.testing import tiny_classifier
model = tiny_classifier("concat", "linear", "custom", "custom").eval()
processor = FusionProcessor(word_tokenizer(["clear no"]), model.image_encoder.input_spec)
batch = dict(processor(images=[np.zeros((9, 9), np.uint8)] * 3, text=["clear", "no clear", None]))
with torch.no_grad():
    wanted = model(**batch).logits
found = make_engine(model, "compiled", batch_size=4, lengths=(8,))(batch)
np.testing.assert_allclose(found, wanted, atol=1e-5)
print("equal")
"""


@pytest.mark.parametrize("kind", ["eager", "onnx"])
def test_an_engine_gives_the_models_logits(
    parts: tuple[FusionClassifier, FusionProcessor], kind: str
) -> None:
    model, processor = parts
    pictures = [np.full((9, 9), 40 * n, np.uint8) for n in range(2)]
    batch = dict(processor(images=[*pictures, pictures[0]], text=TEXTS))
    with torch.no_grad():
        wanted = model(**batch).logits.numpy()
    found = make_engine(model, kind)(batch)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_compiled_engine_gives_the_models_logits() -> None:
    done = subprocess.run([sys.executable, "-c", _COMPILED], capture_output=True, text=True)
    assert done.stdout.strip() == "equal", done.stderr


def test_bfloat16_is_near(parts: tuple[FusionClassifier, FusionProcessor]) -> None:
    model, processor = parts
    batch = dict(processor(images=[np.zeros((9, 9), np.uint8)], text=["clear"]))
    near = make_engine(model, "eager", dtype="bfloat16")(batch)
    exact = make_engine(model, "eager")(batch)
    assert next(model.parameters()).dtype == torch.float32
    assert near.dtype == np.float32 and 0 < np.abs(near - exact).max() < 0.1


@pytest.mark.parametrize("pair", [("eager", "int8"), ("onnx", "int8"), ("onnx", "bfloat16")])
def test_a_type_that_an_engine_lacks_is_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="dtype must be one that engine"):
        check_engine(*pair)


def test_a_misspelt_engine_is_answered_with_the_right_one() -> None:
    with pytest.raises(ValueError, match="'compiled'"):
        check_engine("complied", "float32")
