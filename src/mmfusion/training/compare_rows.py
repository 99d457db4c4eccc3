"""The rows of a comparison: which models are trained, and under which names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from ..model.fusion import FUSIONS
from ..model.validation import closest

MAJORITY, TFIDF = "majority class", "TF-IDF + regression"

DEFAULT_ROWS = ("majority", "tfidf", "image", "text", "concat", "late", "guarded")
"""The rows that `compare` trains if none are named."""


@final
@dataclass(frozen=True)
class ComparisonRow:
    """A row of a comparison: one model.

    Attributes:
        name: the name in the report, different for every row.
        modalities: what the model sees: "image", "text", both, or nothing.
        fusion: the strategy of a model of both, by name or with options.
        mapper: its mapper, by name or with options. None: `linear`.
        views: how many pictures of a sample the model sees, the first ones; None means all.
        published: an accuracy that was published for the same kind of model, which the report
            shows, or None.

    Example:
        >>> ComparisonRow("joint, 4 heads", fusion={"name": "joint", "num_heads": 4}).is_fused
        True
    """

    name: str
    modalities: tuple[str, ...] = ("image", "text")
    fusion: str | Mapping[str, Any] | None = None
    mapper: str | Mapping[str, Any] | None = None
    published: float | None = None
    views: int | None = None

    def __post_init__(self) -> None:
        if self.views is not None and self.views < 1:
            raise ValueError(f"views must be at least 1 or None, got {self.views!r}.")
        if self.fusion is not None and not self.is_fused:
            raise ValueError(
                f"modalities must be ('image', 'text') with a fusion strategy, "
                f"got {self.modalities!r}. Leave fusion out."
            )

    @property
    def is_fused(self) -> bool:
        """Whether the model sees both modalities."""
        return len(self.modalities) == 2

    @property
    def is_single(self) -> bool:
        """Whether the model is one encoder with a head."""
        return len(self.modalities) == 1 and self.name != TFIDF

    @property
    def has_encoder(self) -> bool:
        """Whether the model is a `FusionClassifier`."""
        return self.is_fused or self.is_single

    def options(self) -> dict[str, Any]:
        """Returns what the row passes to `FusionClassifier`."""
        if not self.is_fused:
            return {}
        return {
            "fusion": _options(self.fusion or "concat"),
            "mapper": _options(self.mapper or "linear"),
        }


def rows_of(
    asked: str | Sequence[str | ComparisonRow], modalities: Sequence[str]
) -> list[ComparisonRow]:
    """Returns the rows that were asked for, as far as the encoders allow them.

    Args:
        asked: "all", or names and rows. A name is "majority", "tfidf", "image", "text", or a fusion
            strategy.
        modalities: those with an encoder. Rows that need another one are left out.

    Raises:
        ValueError: for an unknown name, for two rows of one name, or if no row remains.

    Example:
        >>> [row.name for row in rows_of(["image", "text", "late"], ["image", "text"])]
        ['image only', 'text only', 'late']
        >>> rows_of(["lat"], ["image", "text"])
        Traceback (most recent call last):
        ...
        ValueError: rows must be names of rows, got 'lat'. Did you mean 'late'?
    """
    known = {
        "majority": ComparisonRow(MAJORITY, ()),
        "tfidf": ComparisonRow(TFIDF, ("text",)),
        "image": ComparisonRow("image only", ("image",)),
        "text": ComparisonRow("text only", ("text",)),
        **{name: ComparisonRow(name, fusion=name) for name in FUSIONS},
    }
    rows = []
    for one in known if asked == "all" else [asked] if isinstance(asked, str) else asked:
        if isinstance(one, str) and one not in known:
            raise ValueError(f"rows must be names of rows, got {one!r}. {closest(one, known)}")
        rows.append(known[one] if isinstance(one, str) else one)
    rows = [row for row in rows if set(row.modalities) <= set(modalities)]
    names = [row.name for row in rows]
    if len(set(names)) < len(names):
        raise ValueError(f"rows must have different names, got {names!r}. Rename one.")
    if not rows:
        raise ValueError(
            f"rows must contain one that needs no more than {list(modalities)}, got {asked!r}. "
            "Give the other encoder, too."
        )
    return rows


def _options(part: str | Mapping[str, Any]) -> dict[str, Any]:
    return {"name": part} if isinstance(part, str) else dict(part)
