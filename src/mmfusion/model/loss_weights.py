"""The weights of classes and labels in the loss: their names, and the check of what is given."""

from collections.abc import Sequence

from .validation import closest

BALANCED = "balanced"
"""The word for weights that `fit` computes from the training rows."""

WEIGHTS = ("class_weights", "pos_weight")
"""The fields of a config that hold weights of the loss."""


def check_weights(
    name: str, weights: Sequence[float | int] | str | None, num_labels: int, *, multi_label: bool
) -> None:
    """Refuses weights that do not fit the problem.

    Args:
        name: of the field, one of `WEIGHTS`.
        weights: one positive number per class, "balanced", or None.
        num_labels: the number of classes.
        multi_label: whether a sample may have several labels.

    Raises:
        ValueError: naming the field.

    Example:
        >>> check_weights("class_weights", "balancd", 2, multi_label=False)
        Traceback (most recent call last):
            ...
        ValueError: class_weights must be 'balanced' or 2 positive numbers, got 'balancd'. Did you
        mean 'balanced'?
    """
    if weights is None:
        return
    if name == "pos_weight" and not multi_label:
        raise ValueError(
            f"pos_weight must be None where each sample has one class, got {weights!r}. Use "
            "class_weights."
        )
    if isinstance(weights, str):
        if weights != BALANCED:
            raise ValueError(
                f"{name} must be {BALANCED!r} or {num_labels} positive numbers, got {weights!r}. "
                f"{closest(weights, [BALANCED])}"
            )
        if name == "class_weights" and multi_label:
            raise ValueError(
                f"class_weights must be numbers for a multi-label problem, got {weights!r}. Use "
                f"pos_weight={BALANCED!r}, which balances yes and no of each label."
            )
        return
    if len(weights) != num_labels or not all(0 < weight < float("inf") for weight in weights):
        raise ValueError(
            f"{name} must be {num_labels} positive numbers, got {weights!r}. Give one per class."
        )
