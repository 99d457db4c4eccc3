"""A comparison of a multi-label problem, whose labels have names and gaps."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mmfusion import TextEncoder, compare, load_manifest
from mmfusion.data.toy import word_tokenizer
from mmfusion.testing import tiny_config


@pytest.mark.parametrize("named", [True, False])
def test_each_label_is_told_by_its_name(tmp_path: Path, named: bool) -> None:
    rng = np.random.default_rng(0)
    lines = ["text,mass,fluid,group"]
    for number in range(90):
        mass, fluid = rng.integers(0, 2, 2)
        words = ("nodule" if mass else "clear", "effusion" if fluid else "dry")
        # Some labels are unknown.
        shown = "" if rng.random() < 0.2 else str(fluid)
        lines.append(f"{' '.join(words)} {number},{mass},{shown},{number}")
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(lines))
    rows = load_manifest(path, image=None, label=["mass", "fluid"])
    answers = list(rows["label"])
    positives = {name: sum(row[name] == 1 for row in answers) for name in ("mass", "fluid")}
    if not named:
        lists = [list(row.values()) for row in answers]
        rows = rows.remove_columns("label").add_column("label", lists)
    torch.manual_seed(0)
    tokenizer = word_tokenizer(rows["text"])
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = TextEncoder(tiny_config("bert", **sizes, vocab_size=len(tokenizer))).freeze()
    comparison = compare(
        rows,
        tmp_path / "out",
        text_encoder=encoder,
        tokenizer=tokenizer,
        rows=["majority", "tfidf", "text"],
        folds=2,
        seeds=1,
        resamples=20,
        progress=False,
    )
    table = {row["name"]: row for row in comparison.results["rows"]}
    assert table["TF-IDF + regression"]["auroc"]["estimate"] > 0.9
    told = f"classes: mass {positives['mass']}, fluid {positives['fluid']}"
    assert (told in comparison.results["notes"]) == named
    assert (tmp_path / "out" / "report.html").exists()
