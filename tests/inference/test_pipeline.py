"""`transformers.pipeline("fusion-classification")` answers as `predict_stream` does."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import pipeline

from mmfusion import FusionClassifier, FusionProcessor, predict_stream, register_pipeline
from mmfusion.data.toy import word_tokenizer
from mmfusion.testing import tiny_classifier

SAMPLES: list[dict[str, Any]] = [
    {"image": Image.new("L", (20, 20), 90), "text": "clear lungs clear"},
    {"text": "lungs"},
    {"image": Image.new("L", (20, 20), 200), "text": None},
]


@pytest.fixture(scope="module")
def parts() -> tuple[FusionClassifier, FusionProcessor]:
    model = tiny_classifier("concat", "linear", "timm_vit", "bert").eval()
    assert model.image_encoder is not None
    return model, FusionProcessor(word_tokenizer(["clear lungs"]), model.image_encoder.input_spec)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_it_gives_what_predict_gives(
    parts: tuple[FusionClassifier, FusionProcessor], batch_size: int
) -> None:
    register_pipeline()
    model, processor = parts
    classify = pipeline("fusion-classification", model=model, processor=processor)
    found = classify(SAMPLES, batch_size=batch_size) if batch_size == 1 else classify(SAMPLES)
    for answer, wanted in zip(found, predict_stream(*parts, SAMPLES, progress=False), strict=True):
        scores = {one["label"]: one["score"] for one in answer}
        expected = dict(zip(model.config.id2label.values(), wanted.probabilities, strict=True))
        assert scores == pytest.approx(expected, abs=1e-6)
        assert [one["score"] for one in answer] == sorted(scores.values(), reverse=True)
    assert len(classify(SAMPLES[0], top_k=2)) == 2


def test_it_loads_a_folder(parts: tuple[FusionClassifier, FusionProcessor], tmp_path: Path) -> None:
    register_pipeline()
    for part in parts:
        part.save_pretrained(tmp_path)
    classify = pipeline("fusion-classification", model=str(tmp_path))
    direct = pipeline("fusion-classification", model=parts[0], processor=parts[1])
    for one, other in zip(classify(SAMPLES[0]), direct(SAMPLES[0]), strict=True):
        assert one["label"] == other["label"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-6)


def test_mistakes_are_told(parts: tuple[FusionClassifier, FusionProcessor]) -> None:
    register_pipeline()
    register_pipeline()  # a second time changes nothing
    classify = pipeline("fusion-classification", model=parts[0], processor=parts[1])
    with pytest.raises(ValueError, match="Did you mean 'image'"):
        classify({"imge": None})
    with pytest.raises(ValueError, match="must be a mapping"):
        classify("clear")
    with pytest.raises(ValueError, match="Did you mean 'top_k'"):
        classify(SAMPLES[0], topk=1)
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        classify(SAMPLES[0], top_k=0)
    with pytest.raises(ValueError, match="neither"):
        classify({"image": None})
