"""Temperature scaling: one number that makes probabilities fit the frequencies."""

import math

from scipy.optimize import minimize_scalar
from torch import Tensor

from ..model.loss import classification_loss

_LARGEST = 20.0
_LEAST_GAIN = 3.84 / 2
"""Half the chi-square of one degree of freedom that is exceeded by chance in 5 % of all cases."""
_DEVIATION = 0.5
"""The standard deviation of log T that is expected before any sample is seen."""


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Returns the temperature T > 0 with the lowest sum of losses of logits / T.

    The loss is the cross-entropy, or the binary cross-entropy of multi-label labels. To the sum
    over B samples, (log T)^2 / (2 * 0.5^2) is added. This matters for few samples only: if all of
    them are classified rightly, the loss alone would ask for a T near 0. T stays 1 unless the sum
    falls significantly (likelihood ratio test, p < .05): a T that only follows chance would make
    probabilities worse. The order of the classes of a sample does not change.

    Args:
        logits: of samples that the model was not trained on [B, C].
        labels: int [B], or 1, 0, NaN float [B, C].

    Source:
        Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv 1706.04599, section 4.2.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[4.0, 0.0]] * 400)
        >>> T = fit_temperature(logits, torch.tensor([0, 0, 0, 1] * 100))
        >>> [round(p, 2) for p in (logits / T).softmax(1)[0].tolist()]
        [0.76, 0.24]
    """
    values, target = logits.double(), labels
    if labels.is_floating_point():
        target = labels.double()

    def loss(log_temperature: float) -> float:
        fit = classification_loss(values / math.exp(log_temperature), target)
        return float(fit) * len(values) + log_temperature**2 / (2 * _DEVIATION**2)

    bound = math.log(_LARGEST)
    found = minimize_scalar(loss, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-6})
    return math.exp(float(found.x)) if loss(0.0) - loss(float(found.x)) > _LEAST_GAIN else 1.0
