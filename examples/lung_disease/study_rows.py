"""The rows of the study: baselines, single modalities, mappers, and fusion strategies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mmfusion import ComparisonRow

MAPPERS: dict[str, dict[str, Any]] = {
    "linear": {"name": "linear"},
    "mlp": {"name": "mlp", "hidden_dim": 256},
    "cross_attention": {
        "name": "cross_attention",
        "num_queries": 4,
        "inner_dim": 128,
        "hidden_dim": 128,
    },
}
# EfficientNet's embeddings have 1,280 dimensions. Attention of that width would take most of the
# study's time.
NARROW = {"inner_dim": 128, "hidden_dim": 128}
PUBLISHED = {"image": 0.77, "text": 0.88, "fused": 0.79}
"""The published accuracy of the three models."""


def study_rows(
    published: bool, narrow: bool, *, slow: bool = True, solved: bool = False
) -> list[str | ComparisonRow]:
    """Returns the rows of one protocol.

    The strategies that look at tokens read the text through the mapper `cross_attention`: its few
    tokens make attention to them cheap.

    Args:
        published: whether the published study used this protocol. Then its figures are included.
        narrow: whether attention is narrower than the image's embedding.
        slow: whether all strategies are included. Without it, `mmtm`, `bottleneck` and `film`,
            which compute the last stage of the image encoder in every epoch, are left out, and
            `gated`, `low_rank` and `tokens`, because the run must end within ten minutes.
        solved: whether only rows are returned that need no epochs where encoders are frozen.
    """
    given = PUBLISHED if published else {}
    attention = NARROW if narrow else {}
    tokens = MAPPERS["cross_attention"]
    rows: list[str | ComparisonRow] = [
        "tfidf",
        ComparisonRow("image only", ("image",), published=given.get("image")),
        ComparisonRow("text only", ("text",), published=given.get("text")),
        ComparisonRow("concat (no mapper)", fusion="concat", mapper="identity"),
        *(
            ComparisonRow(
                f"concat ({'attention' if name == 'cross_attention' else name})",
                fusion="concat",
                mapper=mapper,
                published=given.get("fused"),
            )
            for name, mapper in MAPPERS.items()
            if name == "linear" or not solved
        ),
        "late",
        "guarded",
    ]
    if solved:
        return rows
    rows += [
        ComparisonRow("joint", fusion={"name": "joint", **attention}, mapper=tokens),
        ComparisonRow(
            "cross_attention", fusion={"name": "cross_attention", **attention}, mapper=tokens
        ),
    ]
    if slow:
        rows += [
            ComparisonRow("mmtm", fusion={"name": "mmtm", "pairs": 1}, mapper=tokens),
            ComparisonRow("bottleneck", fusion={"name": "bottleneck", "layers": 1}, mapper=tokens),
            "film",
            "gated",
            "low_rank",
            ComparisonRow("tokens", fusion="tokens", mapper=tokens),
        ]
    return rows


def rows_with_laterals(rows: list[str | ComparisonRow]) -> list[str | ComparisonRow]:
    """Returns rows of frontal X-rays, and rows that see the lateral X-rays of the studies too.

    Args:
        rows: as `study_rows` returns them.
    """
    named = {
        "image": ComparisonRow("image only", ("image",)),
        **{name: ComparisonRow(name, fusion=name) for name in ("late", "guarded")},
    }
    whole = [named.get(row, row) if isinstance(row, str) else row for row in rows]
    frontal = [
        replace(one, views=1)
        if isinstance(one, ComparisonRow) and "image" in one.modalities
        else one
        for one in whole
    ]
    return [
        *frontal,
        ComparisonRow("image only (frontal + lateral)", ("image",)),
        ComparisonRow("concat (frontal + lateral)", fusion="concat", mapper="linear"),
        ComparisonRow("late (frontal + lateral)", fusion="late"),
    ]
