"""What is wrong with a data set, found before a model is trained on it."""

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

from ..model.images import ImageError, load_image
from ..model.missing import is_blank
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
    """One thing that an audit found.

    Args:
        kind: What it is, such as "text_across_splits".
        severity: "error" (the evaluation would be wrong or training would stop), "warning" or
            "info".
        count: How many there are.
        message: One sentence for people.
        examples: Up to five of them; `train[3]` is row 3, counted from 0, of the split "train".
    """

    kind: str
    severity: Severity
    count: int
    message: str
    examples: tuple[str, ...] = ()


@final
@dataclass(frozen=True)
class Audit:
    """What `audit` found; `str()` of it is a table for people.

    Args:
        findings: The findings, errors first.

    Example:
        >>> finding = Finding("empty_text", "info", 2, "2 rows of train have no text.", ("train[0]",))
        >>> report = Audit((finding,))
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
        """Return the audit as what `json.dumps` takes: `ok` and the list `findings`."""
        return {
            "ok": self.ok,
            "findings": [
                asdict(finding) | {"examples": list(finding.examples)} for finding in self.findings
            ],
        }

    def __str__(self) -> str:
        """Return a plain-text table, one finding to a line and its examples below."""
        width = max([20, *(len(finding.kind) for finding in self.findings)])
        lines = []
        for finding in self.findings:
            head = f"{finding.severity:<8} {finding.kind:<{width}} {finding.count:>4}  "
            lines.append(head + finding.message)
            lines.extend(" " * len(head) + example for example in finding.examples)
        return "\n".join(lines) or "nothing found"


def audit(
    splits: datasets.Dataset | Mapping[str, datasets.Dataset],
    *,
    group: str | None = "group",
    text: str | None = "text",
    image: str | None = "image",
    label: str | None = "label",
    tokenizer: Tokenizer | None = None,
) -> Audit:
    """Return what would spoil an evaluation or stop a training, and what is worth knowing besides.

    Errors are groups, identical normalised texts and identical pictures in more than one split,
    pictures that cannot be read, and rows with neither image nor text. Pictures are compared by
    their decoded pixels, so that a copy under another name or in another lossless format is found.
    Every picture is decoded once, on several threads. A row without a group is its own group.

    Args:
        splits: The splits by name, or one dataset.
        group: Column that names the patient. None leaves the check out. The default name may be
            absent.
        text: Column of texts. None leaves its checks out (for texts such as "male, 45", which are
            no leak). The default name may be absent.
        image: Column of pictures. None leaves its checks out. The default name may be absent.
        label: Column of labels. None leaves its check out. The default name may be absent.
        tokenizer: Measures texts in tokens, as `tokenizer(list of texts)["input_ids"]`. None: in
            words. Texts longer than its `model_max_length`, if it has one, are a warning.

    Returns:
        The findings; `Audit.ok` says whether there is no error.

    Raises:
        TypeError: If `splits` is neither a dataset nor a mapping of datasets.
        ValueError: If there is no row at all, or a column other than the default is in no split.

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
        *_check_lengths(texts, tokenizer),
    ]
    rank = {"error": 0, "warning": 1, "info": 2}
    return Audit(tuple(sorted(findings, key=lambda finding: rank[finding.severity])))


def _as_parts(splits: object) -> Parts:
    parts = {"all": splits} if isinstance(splits, datasets.Dataset) else splits
    if not isinstance(parts, Mapping) or not all(
        isinstance(part, datasets.Dataset) for part in parts.values()
    ):
        raise TypeError(
            f"splits must be a datasets.Dataset or a mapping of names to them, got {type(splits).__name__}. "
            "Pass what load_manifest or split returned."
        )
    if not any(len(part) for part in parts.values()):
        raise ValueError("splits must be not empty, got 0 rows. There is nothing to audit.")
    return parts


def _values(parts: Parts, name: str | None, role: str) -> dict[str, list[Any]]:
    """The column's values by split, without the splits that lack it."""
    known = list(dict.fromkeys(column for part in parts.values() for column in part.column_names))
    column = find_column(known, name, role)
    return {key: list(part[column]) for key, part in parts.items() if column in part.column_names}


def _places(
    values: Mapping[str, Sequence[Any]], key: Callable[[Any], Any]
) -> dict[Any, list[Place]]:
    """Where each key stands; values whose key is blank stand nowhere."""
    found: dict[Any, list[Place]] = defaultdict(list)
    for name, column in values.items():
        for row, value in enumerate(column):
            if not is_blank(value) and not is_blank(identity := key(value)):
                found[identity].append((name, row))
    return found


def _across(places: Mapping[Any, list[Place]]) -> dict[Any, list[Place]]:
    return {key: where for key, where in places.items() if len({name for name, _ in where}) > 1}


def _within(places: Mapping[Any, list[Place]]) -> dict[Any, list[Place]]:
    return {
        key: where for key, where in places.items() if len({name for name, _ in where}) < len(where)
    }


def _show(where: Sequence[Place]) -> str:
    # One place of every split before a second of any: it is the pair of splits that is the leak.
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
    torn = _across(_places(groups, str))
    if torn:
        message = f"{len(torn)} groups have rows in more than one split. Split with mmfusion.data.collate.split."
        yield Finding("group_across_splits", "error", len(torn), message, _named(torn))


def _check_texts(texts: Mapping[str, Sequence[Any]]) -> Iterator[Finding]:
    places = _places(texts, normalise_text)
    if shared := _across(places):
        message = f"{len(shared)} texts occur in more than one split. Split with mmfusion.data.collate.split."
        yield Finding("text_across_splits", "error", len(shared), message, _named(shared))
    if repeated := _within(places):
        message = f"{len(repeated)} texts occur more than once within a split."
        yield Finding("text_within_split", "info", len(repeated), message, _named(repeated))


def _check_images(images: Mapping[str, Sequence[Any]]) -> Iterator[Finding]:
    cells = [
        ((name, row), value)
        for name, column in images.items()
        for row, value in enumerate(column)
        if not is_blank(value)
    ]
    # The same file is often used by several rows; it is decoded once.
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
    return value if isinstance(value, str) else id(value)


def _pixels(source: Any) -> str | ImageError:
    try:
        picture = load_image(source).convert("RGB")
    except ImageError as error:
        return error
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
        for row, (said, shown) in enumerate(zip(texts[name], images[name], strict=True))
        if is_blank(said) and is_blank(shown)
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
    if values and isinstance(values[0], list):
        positives = np.nansum(np.array(values, dtype=np.float64), axis=0)
        return {f"label {number}": int(count) for number, count in enumerate(positives)}
    if isinstance(feature, datasets.ClassLabel):
        number_of = Counter(values)
        return {name: number_of[number] for number, name in enumerate(feature.names)}
    return dict(sorted(Counter(map(str, values)).items()))


def _check_lengths(
    texts: Mapping[str, Sequence[Any]], tokenizer: Tokenizer | None
) -> Iterator[Finding]:
    unit = "words" if tokenizer is None else "tokens"
    limit = getattr(tokenizer, "model_max_length", None)
    for name, column in texts.items():
        rows = [row for row, value in enumerate(column) if not is_blank(value)]
        if not rows:
            continue
        lengths = _lengths([column[row] for row in rows], tokenizer)
        order = np.argsort(-lengths, kind="stable")
        median, high = np.percentile(lengths, [50, 95])
        message = f"{name}: the longest text has {lengths.max()} {unit}, half have at most {median:.0f}, 95 % at most {high:.0f}."
        examples = tuple(f"{name}[{rows[at]}]: {lengths[at]} {unit}" for at in order[:EXAMPLES])
        yield Finding("longest_text", "info", int(lengths.max()), message, examples)
        if isinstance(limit, int) and (cut := int((lengths > limit).sum())):
            message = f"{cut} texts of {name} are longer than the tokenizer's {limit} tokens and will be cut."
            yield Finding("text_too_long", "warning", cut, message, examples[:cut])


def _lengths(
    texts: Sequence[str], tokenizer: Tokenizer | None
) -> np.ndarray[Any, np.dtype[np.int64]]:
    if tokenizer is None:
        return np.array([len(text.split()) for text in texts], dtype=np.int64)
    lengths: list[int] = []
    for start in range(0, len(texts), TOKENIZER_BATCH):
        lengths.extend(
            map(len, tokenizer(list(texts[start : start + TOKENIZER_BATCH]))["input_ids"])
        )
    return np.array(lengths, dtype=np.int64)
