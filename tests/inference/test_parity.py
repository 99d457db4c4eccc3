"""The report on how far answers in another precision are away, against loops over the samples."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from mmfusion.inference.parity import parity


@pytest.mark.parametrize("multi_label", [False, True])
def test_parity_is_counted_sample_by_sample(multi_label: bool) -> None:
    draw = np.random.default_rng(0)
    before = draw.normal(size=(50, 2))
    after = before + draw.normal(0, 0.3, size=(50, 2))
    labels = draw.integers(0, 2, (50, 2) if multi_label else 50)
    found = parity(
        torch.from_numpy(before),
        torch.from_numpy(after),
        torch.from_numpy(labels),
        multi_label=multi_label,
    )
    distances = [abs(after[i, j] - before[i, j]) for i in range(50) for j in range(2)]
    assert found.rows == 50 and found.largest == pytest.approx(max(distances))
    assert found.mean == pytest.approx(sum(distances) / 100)
    assert found.spread == pytest.approx(np.sqrt(((before - before.mean()) ** 2).mean()))
    if multi_label:
        changed = sum((before[i, j] > 0) != (after[i, j] > 0) for i in range(50) for j in range(2))
        assert found.changed == changed / 100
        expected = [
            np.mean([roc_auc_score(labels[:, c], x[:, c]) for c in (0, 1)]) for x in (before, after)
        ]
    else:
        changed = sum(
            (before[i, 1] > before[i, 0]) != (after[i, 1] > after[i, 0]) for i in range(50)
        )
        assert found.changed == changed / 50
        expected = [roc_auc_score(labels, x[:, 1] - x[:, 0]) for x in (before, after)]
    assert [found.auroc_before, found.auroc_after] == pytest.approx(expected)


def test_parity_without_labels_and_of_other_samples() -> None:
    logits = torch.zeros(3, 2)
    found = parity(logits, logits)
    assert found.auroc_before is found.auroc_after is None and found.changed == 0
    for other in (torch.zeros(2, 2), torch.zeros(3)):
        with pytest.raises(ValueError, match=r"logits \[B, C\] of the same samples"):
            parity(logits, other)
    with pytest.raises(ValueError, match=r"got \(0, 2\)"):
        parity(logits[:0], logits[:0])
