"""Linear layers in 8-bit integers."""

import importlib
from typing import Any

from torch import nn

from ..model.modeling import FusionClassifier

LEAST_WIDTH = 512
"""Linear layers of the encoders that are at least this wide on both sides are quantised.

Narrower ones spend more time on rounding than they save (`python -m benchmarks --case int8`).
"""


def quantize_linear_layers(model: FusionClassifier, least_width: int | None = None) -> int:
    """Quantises the wide linear layers of the encoders in place; returns how many.

    The weights W of an output and the inputs x of a token become integers from -128 to 127 with a
    scale each, the largest absolute value / 127.5:

        y = scale_W scale_x (W_int8 x_int8) + b

    So a sample's answer does not depend on the other samples of its batch. Convolutions, the mapper
    and the fusion strategy keep their type.

    Args:
        model: the classifier.
        least_width: the fewest inputs and outputs of a layer that is quantised; None means
            `LEAST_WIDTH`.

    Raises:
        ImportError: if torchao is not installed.
        ValueError: if no linear layer is wide enough.

    Source:
        Dettmers et al. 2022, LLM.int8() (arXiv 2208.07339), vector-wise quantisation, here without
        the outliers in another type; done by torchao.
    """
    try:
        quantization: Any = importlib.import_module("torchao.quantization")
    except ImportError as error:
        raise ImportError(
            f'dtype="int8" needs torchao: {error}. Run: pip install "mmfusion[int8]"'
        ) from error
    least = LEAST_WIDTH if least_width is None else least_width
    found = 0

    def is_wide(module: nn.Module, _: str) -> bool:
        nonlocal found
        wide = type(module) is nn.Linear and min(module.weight.shape) >= least
        found += wide
        return wide

    # Without `set_inductor_config`, torchao would change settings of torch for the whole process.
    config = quantization.Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)
    for name in model.modalities:
        quantization.quantize_(getattr(model, f"{name}_encoder"), config, filter_fn=is_wide)
    if not found:
        raise ValueError(
            f"dtype must be a type of torch for encoders without a linear layer of {least} or more "
            'inputs and outputs, got "int8". Use torch.bfloat16.'
        )
    return found
