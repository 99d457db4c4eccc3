"""Image models of keras.applications as torch modules, on Keras's torch backend."""

import importlib
import importlib.util
import inspect
import os
import random
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, final

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from .load_input_spec import default_input_spec
from .validation import closest, plain_value

_SIZES = {
    "InceptionV3": 299,
    "InceptionResNetV2": 299,
    "Xception": 299,
    "NASNetLarge": 331,
    "EfficientNetB1": 240,
    "EfficientNetB2": 260,
    "EfficientNetB3": 300,
    "EfficientNetB4": 380,
    "EfficientNetB5": 456,
    "EfficientNetB6": 528,
    "EfficientNetB7": 600,
    "EfficientNetV2B1": 240,
    "EfficientNetV2B2": 260,
    "EfficientNetV2B3": 300,
    "EfficientNetV2S": 384,
    "EfficientNetV2M": 480,
    "EfficientNetV2L": 480,
}
"""The side of the pictures that a model was trained with, in pixels; 224 for all others."""

_CAFFE, _TORCH, _TF, _INSIDE = "caffe", "torch", "tf", "inside"
_MODES = {
    "densenet": _TORCH,
    "resnet": _CAFFE,
    "vgg16": _CAFFE,
    "vgg19": _CAFFE,
    "resnet_v2": _TF,
    "inception_v3": _TF,
    "inception_resnet_v2": _TF,
    "mobilenet": _TF,
    "mobilenet_v2": _TF,
    "nasnet": _TF,
    "xception": _TF,
    "convnext": _INSIDE,
    "efficientnet": _INSIDE,
    "efficientnet_v2": _INSIDE,
    "mobilenet_v3": _INSIDE,
}
"""Module of keras.applications -> how its `preprocess_input` changes pixels in [0, 255].

"inside" means that the model does it itself.
"""

_FIXED = ("include_top", "weights", "input_tensor", "input_shape", "pooling", "name")
"""Arguments of the functions of keras.applications that an encoder decides by itself."""

_FILES = (".h5", ".hdf5", ".keras")


@final
class KerasBackbone(nn.Module):
    """A model of keras.applications whose weights are parameters and buffers of torch.

    Keras describes the layers. The weights are passed to them in each call (Keras's
    `stateless_call`), so that a copy, a move to another device and freezing work as for any torch
    module.

    Args:
        name: of the model in keras.applications.
        options: the further arguments of its function there.
        model: the Keras model whose values are the first ones.

    Attributes:
        dim: width D of its features.
        input_spec: as for `ImageEncoder`.

    Shape:
        pixel_values [B, 3, H, W] -> a feature map [B, D, h, w].
    """

    def __init__(self, name: str, options: Mapping[str, Any], model: Any):
        super().__init__()
        self.name, self.options = name, dict(options)
        self.input_spec = keras_input_spec(name, options)
        self.dim = int(model.output_shape[-1])
        self._trained, self._kept = _keys(model)
        values = _values(model)
        for key in self._trained:
            self.register_parameter(key, nn.Parameter(values[key]))
        for key in self._kept:
            self.register_buffer(key, values[key])
        self.to(torch.get_default_dtype())

    # The compiler cannot follow Keras's code. torch.export can: it runs the code.
    @torch.compiler.disable(reason="Keras's code cannot be compiled. timm has most of its models.")
    def forward(self, pixel_values: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Returns the features.

        Args:
            pixel_values: normalised pixels.
        """
        keras = keras_module()
        pixels = rearrange(pixel_values, "b c h w -> b h w c")
        model = keras_layers(
            self.name,
            tuple(sorted(self.options.items())),
            int(pixels.shape[1]),
            int(pixels.shape[2]),
            str(pixels.dtype).removeprefix("torch."),
        )
        trained = [getattr(self, key) for key in self._trained]
        kept = [getattr(self, key) for key in self._kept]
        # Keras moves every tensor to the device of its own scope.
        with keras.device(str(pixels.device)):
            with keras.StatelessScope(zip(model.non_trainable_variables, kept, strict=True)):
                for layer in model.layers:
                    # EfficientNet's first layer computes with a copy of its statistics.
                    if isinstance(layer, keras.layers.Normalization) and layer.input_mean is None:
                        layer.finalize_state()
            features, moved = model.stateless_call(trained, kept, pixels, training=self.training)
        if self.training:
            with torch.no_grad():
                for value, new in zip(kept, moved, strict=True):
                    value.copy_(new)
        return rearrange(features, "b h w d -> b d h w")

    def extra_repr(self) -> str:
        """Returns what tells this backbone apart where it is printed."""
        return ", ".join([self.name, *(f"{key}={value!r}" for key, value in self.options.items())])


def build_keras(
    name: str, load: bool, options: Mapping[str, Any]
) -> tuple[KerasBackbone, dict[str, Any]]:
    """Returns a model of keras.applications, and the options that rebuild it.

    Args:
        name: of the model, for example "DenseNet121".
        load: whether to load the weights that Keras publishes (ImageNet).
        options: further arguments of the model's function, such as `alpha` of MobileNet.

    Raises:
        ImportError: if Keras is not installed.
        ValueError: for a Keras that runs on another backend than torch, an unknown name, an option
            that the model does not take, or weights that cannot be fetched.
    """
    kept: dict[str, Any] = plain_value(dict(options))
    make = _function(name)
    known = [key for key in inspect.signature(make).parameters if key not in _FIXED]
    for key in kept:
        if key not in known:
            raise ValueError(f"{name} has no option {key!r}. {closest(key, known)}")
    seed = int(torch.randint(2**31, ()))
    try:
        model = _built(name, kept, weights="imagenet" if load else None, seed=seed)
    # Keras raises the errors of urllib and of its own for weights that cannot be fetched.
    except Exception as error:
        what = "whose weights can be fetched and fit" if load else "that can be built"
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"name must be a model of keras.applications {what}, got {name!r} with {kept}: "
            f"{reason[0]}"
        ) from error
    return KerasBackbone(name, kept, model), kept


def keras_weights(backbone: Any, weights: Any) -> Any:
    """Returns the tensors of a file that Keras saved, or `weights` as they are.

    Args:
        backbone: of an encoder.
        weights: what the user gave. A file of Keras ends with .h5, .hdf5 or .keras.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file does not hold the weights of this model without its classifier.
    """
    is_path = isinstance(weights, str | os.PathLike)
    if not isinstance(backbone, KerasBackbone) or not is_path or Path(weights).suffix not in _FILES:
        return weights
    if not Path(weights).is_file():
        raise FileNotFoundError(
            f"weights must be a file of Keras, got {str(weights)!r}, which does not exist. Check "
            "the path."
        )
    model = _built(backbone.name, backbone.options)
    try:
        with keras_module().device("cpu"):
            model.load_weights(weights)
    # Keras raises many kinds of errors for a file that does not fit.
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"weights must be those of {backbone.name} without its classifier "
            f"(include_top=False), got {str(weights)!r}: {reason[0]}"
        ) from error
    return _values(model)


def keras_input_spec(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the input spec of a model of keras.applications.

    Its mean and std stand for the model's own `preprocess_input`. Keras publishes no rule for
    resizing: pictures are stretched.

    Args:
        name: of the model.
        options: with which it is made.
    """
    spec = default_input_spec() | {"size": [_SIZES.get(name, 224)] * 2}
    module = _function(name).__module__.rpartition(".")[2]
    mode = _MODES[module]
    if mode == _INSIDE and not options.get("include_preprocessing", True):
        # These leave out ImageNet's mean and deviation then, and the others a scale to [-1, 1].
        # (The documentation asks for [-1, 1] for EfficientNetV2B0 to B3, too. Their layers do not.)
        normalizes = module == "convnext" or name.startswith("EfficientNetV2B")
        mode = _TORCH if normalizes else _TF
    if mode == _CAFFE:
        # The means of the channels of ImageNet in [0, 255], blue first, without a division.
        means = [value / 255 for value in (103.939, 116.779, 123.68)]
        return spec | {"mean": means, "std": [1 / 255] * 3, "channel_order": "BGR"}
    if mode == _TF:
        return spec | {"mean": [0.5] * 3, "std": [0.5] * 3}
    if mode == _INSIDE:
        return spec | {"mean": [0.0] * 3, "std": [1 / 255] * 3}
    return spec


def keras_module() -> Any:
    """Returns Keras, which must run on torch.

    Where nothing was said and Keras was not imported yet, it is told to run on torch.

    Raises:
        ImportError: if Keras 3 is not installed.
        ValueError: if Keras runs on another backend in this process.
    """
    if "keras" not in sys.modules:
        if importlib.util.find_spec("keras") is None:
            raise ImportError(
                "source='keras' needs Keras 3, which is not installed. "
                'Run: pip install "mmfusion[keras]"'
            )
        os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = importlib.import_module("keras")
    backend = keras.backend.backend()
    if backend != "torch":
        raise ValueError(
            f"source='keras' needs Keras on torch, got the backend {backend!r}. Set the "
            "environment variable KERAS_BACKEND=torch before Keras is imported."
        )
    return keras


def _function(name: str) -> Any:
    """Returns the function of keras.applications that builds a model."""
    applications = keras_module().applications
    names = [
        key
        for key in dir(applications)
        if key[0].isupper() and callable(getattr(applications, key))
    ]
    if name not in names:
        raise ValueError(
            f"name must be a model of keras.applications, got {name!r}. {closest(name, names)}"
        )
    return getattr(applications, name)


@contextmanager
def _settings(dtype: str) -> Iterator[None]:
    """Sets Keras's type of numbers and its order of axes.

    Afterwards these are the user's again, and so is the state of Python's random numbers.
    """
    config = keras_module().config
    policy, order, state = config.dtype_policy(), config.image_data_format(), random.getstate()
    config.set_dtype_policy(dtype)
    # Most of these models know this order alone.
    config.set_image_data_format("channels_last")
    try:
        yield
    finally:
        config.set_dtype_policy(policy)
        config.set_image_data_format(order)
        random.setstate(state)


# A few sizes alone, because each holds weights that are not used.
@lru_cache(maxsize=4)
def keras_layers(
    name: str, options: tuple[tuple[str, Any], ...], height: int, width: int, dtype: str
) -> Any:
    """Returns a Keras model whose own weights are not used.

    Args:
        name: of the model.
        options: further arguments of its function, as pairs.
        height: of the pictures, in pixels.
        width: of the pictures, in pixels.
        dtype: the type in which it computes.
    """
    return _built(name, dict(options), (height, width), dtype)


def _built(
    name: str,
    options: Mapping[str, Any],
    size: tuple[int, int] | None = None,
    dtype: str = "float32",
    *,
    weights: str | None = None,
    seed: int | None = None,
) -> Any:
    """Returns a Keras model without its classifier, on the CPU.

    Args:
        name: of the model.
        options: further arguments of its function.
        size: height and width of the pictures; None takes those that it was trained with.
        dtype: the type in which it computes.
        weights: None or "imagenet".
        seed: of the first weights. Keras draws the seeds of its initialisers from Python's
            generator, whose state is the user's again afterwards.
    """
    height, width = size or [_SIZES.get(name, 224)] * 2
    with _settings(dtype), keras_module().device("cpu"):
        if seed is not None:
            random.seed(seed)
        return _function(name)(
            include_top=False, weights=weights, input_shape=(height, width, 3), **options
        )


def _keys(model: Any) -> tuple[list[str], list[str]]:
    """Returns the keys of what trains and of what is kept, in Keras's order.

    A layer, or a generator of random numbers, without a name of its own gets a number from Keras
    that counts all models of the process. Its key has a number that counts those of this model.
    """
    named: dict[str, str] = {}
    counts: dict[str, int] = {}
    automatic = {
        re.sub(r"(?<!^)(?=[A-Z])", "_", type(one).__name__).lower() for one in model.layers
    }

    def key(variable: Any) -> str:
        owner, _, rest = variable.path.partition("/")
        kind = re.sub(r"_\d+$", "", owner)
        if owner not in named:
            named[owner] = owner
            if kind in automatic | {"seed_generator"}:
                counts[kind] = counts.get(kind, -1) + 1
                named[owner] = f"{kind}_{counts[kind]}"
        return f"{named[owner]}/{rest}".replace(".", "_")

    return (
        [key(variable) for variable in model.trainable_variables],
        [key(variable) for variable in model.non_trainable_variables],
    )


def _values(model: Any) -> dict[str, Tensor]:
    """Returns copies of all values of a Keras model by key."""
    trained, kept = _keys(model)
    variables = [*model.trainable_variables, *model.non_trainable_variables]
    pairs = zip([*trained, *kept], variables, strict=True)
    return {key: variable.value.detach().clone() for key, variable in pairs}
