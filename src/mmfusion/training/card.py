"""The model card: what a model was trained and measured on, and what it must not be used for."""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np

from ..data.audit import Audit
from ..data.labels import class_names, is_multi_label, label_array
from ..model.card import cell, render_card
from ..model.missing import is_blank
from ..model.modeling import FusionClassifier
from .evaluate import Evaluation
from .feature_cache import table_of
from .versions import versions


def model_card(
    model: FusionClassifier,
    *,
    parts: Mapping[str, Any] | None = None,
    evaluations: Mapping[str, Evaluation] | None = None,
    audit: Audit | None = None,
    command: str | None = None,
    license: str | None = None,
    data_license: str | None = None,
    limits: Sequence[str] = (),
) -> str:
    """Returns the model card of a classifier, in Markdown with the header that hubs read.

    What was not given is said to be unknown. Texts and names of patients are never in it.

    Args:
        model: the classifier.
        parts: "train", "validation", "test" -> its rows, with `label`, cached or not. A part that
            is None is left out.
        evaluations: name of a model -> its evaluation on the test rows; the first is this model's.
        audit: of the parts, as `audit` returns it.
        command: that trained it.
        license: of the weights, as hubs name it, such as "apache-2.0".
        data_license: of the samples.
        limits: further sentences on what it must not be used for.

    Source: Mitchell et al. 2019, Model Cards for Model Reporting, arXiv 1810.03993.

    Example:
        >>> from mmfusion.testing import tiny_classifier
        >>> card = model_card(tiny_classifier("late"), license="apache-2.0")
        >>> card.splitlines()[:3]
        ['---', 'license: apache-2.0', 'library_name: mmfusion']
        >>> "No figures were measured." in card
        True
    """
    return render_card(
        model,
        license=license,
        samples=_samples(parts, data_license),
        figures=_figures(evaluations),
        leaks=_leaks(audit),
        limits=limits,
        made=_made(command),
    )


def _samples(parts: Mapping[str, Any] | None, license: str | None) -> list[str]:
    if not parts:
        return ["Unknown.", "", f"Licence of the samples: {license or 'unknown'}."]
    lines = [
        "| part | rows | groups | without image | without text | classes |",
        "|" + " --- |" * 6,
    ]
    tables = {name: table_of(rows) for name, rows in parts.items() if rows is not None}
    for name, rows in tables.items():
        groups = len(set(map(str, rows["group"]))) if "group" in rows.column_names else "unknown"
        absent = [
            sum(one is None or is_blank(one) for one in rows[column])
            if column in rows.column_names
            else len(rows)
            for column in ("image", "text")
        ]
        lines.append(
            f"| {name} | {len(rows)} | {groups} | {absent[0]} | {absent[1]} | {_shares(rows)} |"
        )
    return [*lines, "", f"Licence of the samples: {license or 'unknown'}."]


def _shares(rows: datasets.Dataset) -> str:
    """Returns how many rows each class has."""
    if "label" not in rows.column_names or not len(rows):
        return "unknown"
    labels, names = label_array(rows), class_names(rows)
    if is_multi_label(rows):
        counts = (labels == 1).sum(0)
    else:
        counts = np.bincount(labels, minlength=len(names or ()))
    shown = names or [str(number) for number in range(len(counts))]
    return cell(", ".join(f"{name} {count}" for name, count in zip(shown, counts, strict=True)))


def _figures(evaluations: Mapping[str, Evaluation] | None) -> list[str]:
    if not evaluations:
        return ["No figures were measured."]
    metrics = list(next(iter(evaluations.values())).metrics)
    lines = [f"| model | {' | '.join(metrics)} |", "|" + " --- |" * (len(metrics) + 1)]
    for name, found in evaluations.items():
        cells = [
            f"{one.estimate:.3f} ({one.low:.3f} to {one.high:.3f})"
            for one in found.metrics.values()
        ]
        lines.append(f"| {cell(name)} | {' | '.join(cells)} |")
    return [*lines, "", "On the test part, with 95 % intervals resampled by group."]


def _leaks(audit: Audit | None) -> list[str]:
    if audit is None:
        return ["Not looked for: `mmfusion audit` does."]
    found = [one for one in audit.findings if one.severity != "info"]
    if not found:
        return ["None found among groups, texts and pictures of the parts."]
    # The examples of a finding may name patients.
    return [f"- {one.severity}: {one.kind.replace('_', ' ')}, {one.count} times" for one in found]


def _made(command: str | None) -> list[str]:
    packages = ", ".join(f"{name} {number}" for name, number in versions().items())
    return [f"`{command}`" if command else "The command is unknown.", "", packages + "."]
