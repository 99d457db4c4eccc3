"""Single modalities on real data, against a softmax regression by scikit-learn alone.

The yardstick: each pooled embedding divided by LayerNorm without parameters, softmax regression,
the L2 strength from {.001, .01, .1, 1} by validation log-loss, 5 folds by patient. A row of the
library below it is a fault of the training recipe.
"""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from torch.nn.functional import layer_norm

from mmfusion import FusionProcessor, compare, load_manifest
from mmfusion.training.compare_folds import parts_of

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("MMFUSION_DATA", "/nowhere"))
STRENGTHS = (0.001, 0.01, 0.1, 1.0)

pytestmark = [
    pytest.mark.skipif(not DATA.is_dir(), reason="MMFUSION_DATA names no folder of real X-rays"),
    pytest.mark.xdist_group("yardstick"),
]


@pytest.fixture(scope="module")
def encoders():
    sys.path.insert(0, str(ROOT / "examples" / "lung_disease"))
    import encoders

    return encoders.image_encoder("small").freeze(), encoders.text_encoder("small").freeze()


def samples_of(name: str, folder: Path):
    """Returns the study's rows of a data set."""
    import covid_cxr
    import shenzhen
    from manifests import write_manifest

    if name == "shenzhen":
        table = shenzhen.manifest(shenzhen.read(DATA / "shenzhen").cases)
        root = DATA / "shenzhen"
    else:
        table, root = covid_cxr.read(DATA / "covid_cxr").rows, DATA / "covid_cxr"
    return load_manifest(write_manifest(table, folder / f"{name}.csv"), root=root)


@torch.no_grad()
def embeddings(samples, encoder, modality: str) -> np.ndarray:
    """Returns the normalised pooled embedding of each sample; zeros where it lacks the modality."""
    image, text = (encoder, None) if modality == "image" else (None, encoder)
    processor = FusionProcessor.from_encoders(image, text)
    encoder.eval()
    vectors = np.zeros((len(samples), encoder.dim))
    column = list(samples[modality])
    present = [row for row, value in enumerate(column) if value is not None]
    for start in range(0, len(present), 32):
        rows = present[start : start + 32]
        values = [column[row] for row in rows]
        inputs = processor(images=values) if modality == "image" else processor(text=values)
        names = ("pixel_values",) if modality == "image" else ("input_ids", "attention_mask")
        encoded = encoder(*(inputs[name] for name in names))
        vectors[rows] = layer_norm(encoded.pooled, encoded.pooled.shape[-1:]).numpy()
    return vectors


def yardstick(features: np.ndarray, labels: np.ndarray, has: np.ndarray, parts) -> float:
    """Returns the AUROC over all test folds."""
    scores = np.zeros(len(labels))
    for part in parts:
        train, validation = part.train[has[part.train]], part.validation[has[part.validation]]
        models = [
            LogisticRegression(C=1 / (strength * len(train)), max_iter=5000).fit(
                features[train], labels[train]
            )
            for strength in STRENGTHS
        ]
        best = min(
            models,
            key=lambda model: log_loss(
                labels[validation], model.predict_proba(features[validation]), labels=[0, 1]
            ),
        )
        scores[part.test] = best.predict_proba(features[part.test])[:, 1]
        # Without the modality: the share of the class among the training rows that lack it, too.
        rest = part.train[~has[part.train]]
        scores[part.test[~has[part.test]]] = (labels[rest].sum() + 1) / (len(rest) + 2)
    return float(roc_auc_score(labels, scores))


@pytest.mark.parametrize("name", ["covid", "shenzhen"])
def test_single_rows_reach_the_yardstick(name, encoders, tmp_path):
    samples = samples_of(name, tmp_path)
    keep = name == "covid"
    labels = np.asarray(samples["label"])
    comparison = compare(
        samples,
        tmp_path / "out",
        image_encoder=encoders[0],
        text_encoder=encoders[1],
        rows=["image", "text"],
        folds=5,
        seeds=1,
        keep_texts=keep,
        resamples=50,
        progress=False,
    )
    table = {row["name"]: row["auroc"]["estimate"] for row in comparison.results["rows"]}
    for modality, encoder in zip(("image", "text"), encoders, strict=True):
        features = embeddings(samples, encoder, modality)
        has = np.asarray([value is not None for value in samples[modality]])
        parts = parts_of(samples, 5, 0, text="text" if keep else None)
        expected = yardstick(features, labels, has, parts)
        assert table[f"{modality} only"] >= expected - 0.01
