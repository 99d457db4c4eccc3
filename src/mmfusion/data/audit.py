"""The audit of a data set: faults that must be known before a model is trained on it."""

import hashlib
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Literal, final

import datasets
import numpy as np

from ..model.cells import write_cell
from ..model.images import ImageError, load_image
from ..model.missing import is_blank
from ..model.printing import printable
from .labels import label_tensor
from .splits import find_column
from .text import normalise_text

logger = logging.getLogger(__name__)

EXAMPLES = 5
TOKENIZER_BATCH = 256

Severity = Literal["error", "warning", "info"]
Place = tuple[str, int]
Parts = Mapping[str, datasets.Dataset]
Tokenizer = Callable[[list[str]], Mapping[str, Any]]


@final
@dataclass(frozen=True)
class Finding:
    """One result of an audit.

    Args:
        kind: the kind of the finding, such as "text_across_splits".
        severity: "error" (the evaluation would be wrong or training would stop), "warning" or
            "info".
        count: the number of cases.
        message: one sentence for people.
        examples: up to five cases. `train[3]` is row 3, counted from 0, of the split "train".
    """

    kind: str
    severity: Severity
    count: int
    message: str
    examples: tuple[str, ...] = ()


@final
@dataclass(frozen=True)
class Audit:
    """The findings of `audit`. `str()` of it is a table for people.

    Args:
        findings: the findings, errors first.

    Example:
        >>> message = "2 rows of train have no text."
        >>> report = Audit((Finding("empty_text", "info", 2, message, ("train[0]",)),))
        >>> report.ok
        True
        >>> print(report)
        info     empty_text              2  2 rows of train have no text.
                                            train[0]
    """

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no finding of severity "error"."""
        return all(finding.severity != "error" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Returns the audit as a dict that `json.dumps` takes: `ok` and the list `findings`."""
        return {
            "ok": self.ok,
            "findings": [
                asdict(finding) | {"examples": list(finding.examples)} for finding in self.findings
            ],
        }

    def __str__(self) -> str:
        """Returns a plain-text table: one line for each finding, its examples below it."""
        width = max([20, *(len(finding.kind) for finding in self.findings)])
        lines = []
        for finding in self.findings:
            head = f"{finding.severity:<8} {finding.kind:<{width}} {finding.count:>4}  "
            lines.append(head + printable(finding.message))
            lines.extend(" " * len(head) + printable(example) for example in finding.examples)
        return "\n".join(lines) or "nothing found"


def audit(
    splits: datasets.Dataset | Mapping[str, datasets.Dataset],
    *,
    group: str | None = "group",
    text: str | None = "text",
    image: str | None = "image",
    label: str | None = "label",
    tokenizer: Tokenizer | None = None,
    max_length: int | None = None,
) -> Audit:
    """Returns the faults of a data set, and facts that help to judge it.

    These are errors: a group, a normalised text or a picture that is in more than one split; a
    picture that cannot be read; a row with neither image nor text. Pictures are compared by their
    decoded pixels, so a copy under another name or in another lossless format is found. Every
    picture is decoded once, on several threads. A row without a group is its own group.

    Args:
        splits: the splits by name, or one dataset.
        group: the column that names the patient. None skips the check. The default name may be
            absent.
        text: the column of texts. None skips its checks. Use None where equal texts are no leak,
            such as "male, 45". The default name may be absent.
        image: the column of pictures. None skips its checks. The default name may be absent.
        label: the column of labels. None skips its check. The default name may be absent.
        tokenizer: measures texts in tokens, as `tokenizer(list of texts)["input_ids"]`. None
            measures in words. Texts longer than its `model_max_length`, if any, are a warning.
        max_length: the tokens at which the processor cuts, if not `model_max_length`.

    Returns:
        the findings. `Audit.ok` says whether they contain no error.

    Raises:
        TypeError: if `splits` is neither a dataset nor a mapping of datasets.
        ValueError: if there is no row at all, or a column other than the default is in no split.

    Example:
        >>> rows = {"group": ["a", "b"], "text": ["Clear lungs.", "clear lungs"], "label": [0, 1]}
        >>> whole = datasets.Dataset.from_dict(rows)
        >>> report = audit({"train": whole.select([0]), "test": whole.select([1])})
        >>> report.ok, report.findings[0].kind, report.findings[0].examples
        (False, 'text_across_splits', ("'clear lungs' in train[0], test[0]",))
    """
    parts = _as_parts(splits)
    texts = _values(parts, text, "text")
    images = _values(parts, image, "image")
    findings = [
        *_check_groups(_values(parts, group, "group")),
        *_check_texts(texts),
        *_check_images(images),
        *_check_presence(texts, images),
        *_check_labels(parts, _values(parts, label, "label"), label),
        *_check_lengths(texts, tokenizer, max_length),
    ]
    rank = {"error": 0, "warning": 1, "info": 2}
    return Audit(tuple(sorted(findings, key=lambda finding: rank[finding.severity])))


def _as_parts(splits: object) -> Parts:
    parts = {"all": splits} if isinstance(splits, datasets.Dataset) else splits
    if not isinstance(parts, Mapping) or not all(
        isinstance(part, datasets.Dataset) for part in parts.values()
    ):
        raise TypeError(
            "splits must be a datasets.Dataset or a mapping of names to them, "
            f"got {type(splits).__name__}. Pass what load_manifest or split returned."
        )
    if not any(len(part) for part in parts.values()):
        raise ValueError("splits must be not empty, got 0 rows. There is nothing to audit.")
    return parts


def _values(parts: Parts, name: str | None, role: str) -> dict[str, list[Any]]:
    """Returns the column's values by split, without the splits that lack it."""
    names = list(dict.fromkeys(column for part in parts.values() for column in part.column_names))
    column = find_column(names, name, role)
    return {key: list(part[column]) for key, part in parts.items() if column in part.column_names}


def _places(
    values: Mapping[str, Sequence[Any]], key: Callable[[Any], Any]
) -> dict[Any, list[Place]]:
    """Returns the places of each key. A value that is blank, or whose key is blank, has none."""
    places: dict[Any, list[Place]] = defaultdict(list)
    for name, column in values.items():
        for row, value in enumerate(column):
            if not is_blank(value) and not is_blank(identity := key(value)):
                places[identity].append((name, row))
    return places


def _across(places: Mapping[Any, list[Place]]) -> dict[Any, list[Place]]:
    """Returns the keys that are in more than one split."""
    return {key: where for key, where in places.items() if len({name for name, _ in where}) > 1}


def _within(places: Mapping[Any, list[Place]]) -> dict[Any, list[Place]]:
    """Returns the keys that are more than once in the same split."""
    return {
        key: where for key, where in places.items() if len({name for name, _ in where}) < len(where)
    }


def _show(where: Sequence[Place]) -> str:
    # Show one place of each split first, because the leak is between the splits.
    first = dict.fromkeys(next(place for place in where if place[0] == name) for name, _ in where)
    shown = list(dict.fromkeys([*first, *where]))[: max(len(first), 3)]
    rest = len(where) - len(shown)
    return ", ".join(f"{name}[{row}]" for name, row in shown) + (
        f" and {rest} more" if rest else ""
    )


def _quote(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _named(places: Mapping[Any, list[Place]]) -> tuple[str, ...]:
    return tuple(
        f"{_quote(key)} in {_show(where)}" for key, where in list(places.items())[:EXAMPLES]
    )


def _check_groups(groups: Mapping[str, Sequence[Any]]) -> Iterator[Finding]:
    if shared := _across(_places(groups, write_cell)):
        message = (
            f"{len(shared)} groups have rows in more than one split. Split with mmfusion.split."
        )
        yield Finding("group_across_splits", "error", len(shared), message, _named(shared))


def _check_texts(texts: Mapping[str, Sequence[Any]]) -> Iterator[Finding]:
    places = _places(texts, normalise_text)
    if shared := _across(places):
        message = f"{len(shared)} texts occur in more than one split. Split with mmfusion.split."
        yield Finding("text_across_splits", "error", len(shared), message, _named(shared))
    if repeated := _within(places):
        message = f"{len(repeated)} texts occur more than once within a split."
        yield Finding("text_within_split", "info", len(repeated), message, _named(repeated))


def _check_images(images: Mapping[str, Sequence[Any]]) -> Iterator[Finding]:
    cells = [
        ((name, row), value)
        for name, column in images.items()
        for row, cell in enumerate(column)
        for value in (cell if isinstance(cell, list) else [cell])
        if not is_blank(value)
    ]
    # Several rows often use the same file. Decode it only once, because decoding is slow.
    sources = {_source_key(value): value for _, value in cells}
    logger.info("Decoding %d pictures.", len(sources))
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        results = dict(zip(sources, pool.map(_pixels, sources.values()), strict=True))
    places: dict[str, list[Place]] = defaultdict(list)
    broken: dict[str, list[Place]] = defaultdict(list)
    for place, value in cells:
        result = results[_source_key(value)]
        (broken if isinstance(result, ImageError) else places)[str(result)].append(place)
    if broken:
        count = sum(map(len, broken.values()))
        examples = tuple(
            f"{_show(where)}: {reason}" for reason, where in list(broken.items())[:EXAMPLES]
        )
        message = f"{count} pictures cannot be read. Mend or remove them."
        yield Finding("unreadable_image", "error", count, message, examples)
    if shared := _across(places):
        message = (
            f"{len(shared)} pictures occur in more than one split, by their pixels. Group them."
        )
        yield Finding(
            "image_across_splits", "error", len(shared), message, _pictured(shared, images)
        )
    if repeated := _within(places):
        message = f"{len(repeated)} pictures occur more than once within a split, by their pixels."
        yield Finding(
            "image_within_split", "warning", len(repeated), message, _pictured(repeated, images)
        )


def _source_key(value: object) -> object:
    # A picture in memory has no path and may not be hashable, so its identity is its key.
    return value if isinstance(value, str) else id(value)


def _pixels(source: Any) -> str | ImageError:
    try:
        picture = load_image(source).convert("RGB")
    except ImageError as error:
        return error
    # The size is part of the digest, because pictures of other sizes can have the same bytes.
    digest = hashlib.blake2b(repr(picture.size).encode())
    digest.update(picture.tobytes())
    return digest.hexdigest()


def _pictured(
    places: Mapping[str, list[Place]], images: Mapping[str, Sequence[Any]]
) -> tuple[str, ...]:
    examples = []
    for where in list(places.values())[:EXAMPLES]:
        sources = dict.fromkeys(str(images[name][row]) for name, row in where)
        examples.append(f"{_show(where)}: {', '.join(list(sources)[:3])}")
    return tuple(examples)


def _check_presence(
    texts: Mapping[str, Sequence[Any]], images: Mapping[str, Sequence[Any]]
) -> Iterator[Finding]:
    for kind, what, values in (("empty_text", "text", texts), ("missing_image", "image", images)):
        for name, column in values.items():
            missing = [(name, row) for row, value in enumerate(column) if is_blank(value)]
            if missing:
                message = f"{len(missing)} of {len(column)} rows of {name} have no {what}."
                yield Finding(kind, "info", len(missing), message, (_show(missing),))
    empty = [
        (name, row)
        for name in texts.keys() & images.keys()
        for row, cells in enumerate(zip(texts[name], images[name], strict=True))
        if all(is_blank(cell) for cell in cells)
    ]
    if empty:
        message = f"{len(empty)} rows have neither image nor text. Remove them."
        yield Finding("nothing_to_classify", "error", len(empty), message, (_show(empty),))


def _check_labels(
    parts: Parts, labels: Mapping[str, Sequence[Any]], column: str | None
) -> Iterator[Finding]:
    counted = {
        name: _counts(values, parts[name].features[column]) for name, values in labels.items()
    }
    for name, counts in counted.items():
        shares = ", ".join(
            f"{label} {count} ({count / max(len(labels[name]), 1):.0%})"
            for label, count in counts.items()
        )
        yield Finding("class_balance", "info", len(labels[name]), f"{name}: {shares or 'no rows'}.")
    everywhere = list(dict.fromkeys(label for counts in counted.values() for label in counts))
    absent = [
        f"{label!r} in {name}"
        for name, counts in counted.items()
        for label in everywhere
        if counts.get(label, 0) == 0
    ]
    if absent:
        message = f"{len(absent)} classes have no sample in a split."
        yield Finding("absent_class", "warning", len(absent), message, tuple(absent[:EXAMPLES]))


def _counts(values: Sequence[Any], feature: Any) -> dict[str, int]:
    if values and isinstance(values[0], list | dict):
        # NaN marks an unknown label, which is not a positive one.
        positives = np.nansum(label_tensor(values).numpy(), axis=0)
        names = values[0] if isinstance(values[0], dict) else range(len(positives))
        return {f"label {name}": int(count) for name, count in zip(names, positives, strict=True)}
    if isinstance(feature, datasets.ClassLabel):
        number_of = Counter(values)
        return {name: number_of[number] for number, name in enumerate(feature.names)}
    return dict(sorted(Counter(map(str, values)).items()))


def _check_lengths(
    texts: Mapping[str, Sequence[Any]], tokenizer: Tokenizer | None, max_length: int | None
) -> Iterator[Finding]:
    unit = "words" if tokenizer is None else "tokens"
    limit = max_length or getattr(tokenizer, "model_max_length", None)
    for name, column in texts.items():
        rows = [row for row, value in enumerate(column) if not is_blank(value)]
        if not rows:
            continue
        lengths = _lengths([column[row] for row in rows], tokenizer)
        order = np.argsort(-lengths, kind="stable")
        median, high = np.percentile(lengths, [50, 95])
        message = (
            f"{name}: the longest text has {lengths.max()} {unit}, "
            f"half have at most {median:.0f}, 95 % at most {high:.0f}."
        )
        examples = tuple(f"{name}[{rows[at]}]: {lengths[at]} {unit}" for at in order[:EXAMPLES])
        yield Finding("longest_text", "info", int(lengths.max()), message, examples)
        if isinstance(limit, int) and (cut := int((lengths > limit).sum())):
            message = f"{cut} texts of {name} are longer than {limit} {unit} and will be cut."
            yield Finding("text_too_long", "warning", cut, message, examples[:cut])


def _lengths(
    texts: Sequence[str], tokenizer: Tokenizer | None
) -> np.ndarray[Any, np.dtype[np.int64]]:
    if tokenizer is None:
        return np.array([len(text.split()) for text in texts], dtype=np.int64)
    lengths: list[int] = []
    # The batches limit the memory: a large data set is never tokenized all at once.
    for start in range(0, len(texts), TOKENIZER_BATCH):
        lengths.extend(
            map(len, tokenizer(list(texts[start : start + TOKENIZER_BATCH]))["input_ids"])
        )
    return np.array(lengths, dtype=np.int64)
