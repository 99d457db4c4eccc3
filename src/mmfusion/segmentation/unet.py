"""The U-Net in Keras 3, which computes the same on the torch and on the tensorflow backend."""

from __future__ import annotations

from abc import ABC
from typing import Any, Literal, final, get_args

import keras
from einops import rearrange
from keras import ops

Normalization = Literal["batch", "group", "none"]
_GROUPS = 8


def _layout() -> str:
    """Returns the `data_format` of Keras's layers on this backend.

    A picture enters as [B, H, W, D] and keeps that order in memory in all layers. On torch its axes
    are permuted once at the entry. This is a view, which torch calls "channels last" memory. With
    the `data_format` "channels_last", Keras would copy every feature map to the other order and
    back at each convolution, which takes three times as long.
    """
    return "channels_first" if keras.backend.backend() == "torch" else "channels_last"


@final
@keras.saving.register_keras_serializable(package="mmfusion")
class ConvBlock(keras.layers.Layer):
    """The block of a 3 x 3 convolution, its normalisation and a ReLU. The side lengths stay.

    Outside training a batch normalisation is an affine map per channel. It is then multiplied into
    the kernel, which is much smaller than the feature map.

    Args:
        filters: the number of output channels, at least 1.
        normalization: "batch", "group" or "none".
        data_format: "channels_last" or "channels_first".
        **layer_options: the options of every Keras layer (`name`, `dtype`).

    Shape:
        [B, H, W, D] -> [B, H, W, filters], or with the channels first.
    """

    def __init__(
        self,
        filters: int,
        normalization: Normalization = "batch",
        data_format: str = "channels_last",
        **layer_options: Any,
    ):
        super().__init__(**layer_options)
        self.filters, self.normalization, self.data_format = filters, normalization, data_format
        self._axis = -1 if data_format == "channels_last" else 1
        options = {"dtype": self.dtype_policy, "name": "norm"}
        self.convolution = keras.layers.Conv2D(
            filters,
            3,
            padding="same",
            use_bias=normalization == "none",
            kernel_initializer="he_normal",
            data_format=data_format,
            dtype=self.dtype_policy,
            name="convolution",
        )
        self.norm: Any = None
        if normalization == "batch":
            # Momentum 0.9, because training on a few hundred X-rays has few steps. With the default
            # of 0.99 the statistics would still depend on their starting values.
            self.norm = keras.layers.BatchNormalization(
                axis=self._axis, momentum=0.9, epsilon=1e-5, **options
            )
        elif normalization == "group":
            # The number of groups has to divide the number of channels.
            groups = next(n for n in range(min(_GROUPS, filters), 0, -1) if filters % n == 0)
            self.norm = keras.layers.GroupNormalization(
                groups, axis=self._axis, epsilon=1e-5, **options
            )

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the variables for inputs of this shape."""
        self.convolution.build(input_shape)
        if self.norm is not None:
            self.norm.build(self.compute_output_shape(input_shape))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns the feature map."""
        if training or self.normalization == "group":
            outputs = self.convolution(inputs)
            return ops.relu(outputs if self.norm is None else self.norm(outputs, training=training))
        # The running statistics are float32 in mixed precision, too. They make the folded kernel
        # float32, so it is cast to the dtype of the inputs.
        kernel, bias = self._affine()
        return _convolved(
            inputs,
            ops.cast(kernel, self.compute_dtype),
            ops.cast(bias, self.compute_dtype),
            self.data_format,
        )

    def _affine(self) -> tuple[Any, Any]:
        """Returns the kernel and the bias of convolution and normalisation outside training."""
        if self.norm is None:
            return self.convolution.kernel, self.convolution.bias
        scale = self.norm.gamma * ops.rsqrt(self.norm.moving_variance + self.norm.epsilon)
        return self.convolution.kernel * scale, self.norm.beta - self.norm.moving_mean * scale

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns the shape of the feature map."""
        shape = list(input_shape)
        shape[self._axis] = self.filters
        return tuple(shape)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that build the same layer again."""
        config = {
            "filters": self.filters,
            "normalization": self.normalization,
            "data_format": self.data_format,
        }
        return {**super().get_config(), **config}


def _convolved(inputs: Any, kernel: Any, bias: Any, data_format: str) -> Any:
    """Returns ReLU(inputs * kernel + bias)."""
    if keras.backend.backend() == "torch":
        from torch.nn import functional as F

        # The bias is added by the convolution, and the ReLU works in place. Otherwise each would be
        # another pass over a large feature map.
        return F.conv2d(inputs, ops.transpose(kernel, (3, 2, 0, 1)), bias, padding="same").relu_()
    assert data_format == "channels_last"
    return ops.relu(ops.conv(inputs, kernel, padding="same", data_format=data_format) + bias)


class _Squares(keras.layers.Layer, ABC):
    """The base of the two layers that rearrange squares of pixels."""

    def __init__(self, size: int, **layer_options: Any):
        super().__init__(**layer_options)
        self.size = size

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that build the same layer again."""
        return {**super().get_config(), "size": self.size}


@final
@keras.saving.register_keras_serializable(package="mmfusion")
class SpaceToDepth(_Squares):
    """The layer that turns each square of size x size pixels into one position.

    Shape:
        [B, H size, W size, D] -> [B, H, W, size size D].
    """

    def call(self, inputs: Any) -> Any:
        """Returns the positions. The pixels of a square lie row by row, each with its channels."""
        return rearrange(inputs, "B (H h) (W w) D -> B H W (h w D)", h=self.size, w=self.size)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns [B, H, W, size size D]."""
        batch, *sides, channels = input_shape
        assert channels is not None
        return (
            batch,
            *(None if side is None else side // self.size for side in sides),
            channels * self.size**2,
        )


@final
@keras.saving.register_keras_serializable(package="mmfusion")
class DepthToSpace(_Squares):
    """The inverse of `SpaceToDepth`.

    Shape:
        [B, H, W, size size D] -> [B, H size, W size, D].
    """

    def call(self, inputs: Any) -> Any:
        """Returns the pixels."""
        return rearrange(inputs, "B H W (h w D) -> B (H h) (W w) D", h=self.size, w=self.size)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns [B, H size, W size, D]."""
        batch, *sides, channels = input_shape
        assert channels is not None
        return (
            batch,
            *(None if side is None else side * self.size for side in sides),
            channels // self.size**2,
        )


@final
@keras.saving.register_keras_serializable(package="mmfusion")
class UNetSegmenter(keras.Model):
    """The U-Net: from a picture to a probability per pixel and class.

    The side lengths are halved and the channels are doubled `depth` times, beginning with `width`
    channels. On the way up, each level also takes the feature map of its size from the way down.
    Each level has two 3 x 3 convolutions, each with a normalisation and a ReLU.

    It is a plain Keras model with `compile`, `fit`, `predict`, `save("x.keras")` and
    `save_weights("x.weights.h5")`. Each backend loads the files of the other. The user
    chooses the backend by `KERAS_BACKEND` or keras.json, and the precision by `dtype`. The
    probabilities are always float32.

    Args:
        width: the channels of the first level, at least 1.
        depth: the number of times the side lengths are halved, at least 1. H and W must be
            multiples of patch_size * 2 ** depth.
        patch_size: the side in pixels of the square that is one position of the network. The output
            still has one probability per pixel. 1 is the classical U-Net; 2 computes a quarter of
            the positions.
        max_width: the largest number of channels of a level; None is no limit.
        input_channels: the channels of the picture; 1 for grey.
        num_classes: 1 gives one sigmoid (the probability of the foreground); more give a softmax.
        normalization: "batch", "group" or "none".
        dropout: the share of the deepest level's channels that are dropped in training, in [0, 1).
        name: the model's name.
        dtype: a Keras dtype policy, such as "mixed_bfloat16". None is the global one
            (`keras.config.dtype_policy()`).

    Shape:
        float [B, H, W, input_channels] -> float32 [B, H, W, num_classes], within [0, 1].

    Raises:
        ValueError: if an argument is outside its range, or (when called) H or W is not a multiple
            of patch_size * 2 ** depth.

    Source:
        Ronneberger et al. 2015, "U-Net" (arXiv 1505.04597), here with same padding and a
        normalisation. Shi et al. 2016 (arXiv 1609.05158), the sub-pixel layer, for squares of
        pixels as positions.

    Example:
        >>> import numpy as np
        >>> model = UNetSegmenter(width=4, depth=2)
        >>> tuple(model(np.zeros((1, 32, 48, 1), "float32")).shape)
        (1, 32, 48, 1)
    """

    def __init__(
        self,
        width: int = 16,
        depth: int = 4,
        *,
        patch_size: int = 1,
        max_width: int | None = None,
        input_channels: int = 1,
        num_classes: int = 1,
        normalization: Normalization = "batch",
        dropout: float = 0.0,
        name: str = "unet",
        dtype: Any = None,
    ):
        options: dict[str, Any] = {
            "width": _positive("width", width),
            "depth": _positive("depth", depth),
            "patch_size": _positive("patch_size", patch_size),
            "max_width": max_width,
            "input_channels": _positive("input_channels", input_channels),
            "num_classes": _positive("num_classes", num_classes),
            "normalization": normalization,
            "dropout": dropout,
        }
        if max_width is not None and _positive("max_width", max_width) < width:
            raise ValueError(
                f"max_width must be at least width, {width}, got {max_width}. "
                "Lower width, or raise max_width."
            )
        if normalization not in get_args(Normalization):
            raise ValueError(
                f"normalization must be one of {get_args(Normalization)}, got {normalization!r}."
            )
        if (
            isinstance(dropout, bool)
            or not isinstance(dropout, int | float)
            or not 0 <= dropout < 1
        ):
            raise ValueError(f"dropout must be within [0, 1), got {dropout!r}.")
        policy = keras.dtype_policies.get(
            dtype if dtype is not None else keras.config.dtype_policy()
        )
        inputs = keras.Input((None, None, input_channels), name="image")
        widths = [
            min(width * 2**level, max_width or width * 2**level) for level in range(depth + 1)
        ]
        entered = SpaceToDepth(patch_size, dtype=policy, name="patches")(inputs)
        logits = _graph(
            entered, widths, normalization, dropout, num_classes * patch_size**2, policy
        )
        logits = DepthToSpace(patch_size, dtype="float32", name="pixels")(logits)
        activation = "sigmoid" if num_classes == 1 else "softmax"
        outputs = keras.layers.Activation(activation, dtype="float32", name="probabilities")(logits)
        super().__init__(inputs=inputs, outputs=outputs, name=name)
        self.dtype_policy = policy
        self._options = options

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Returns the probabilities [B, H, W, num_classes]."""
        step = self._options["patch_size"] * 2 ** self._options["depth"]
        for side, length in zip("HW", ops.shape(inputs)[1:3], strict=True):
            if isinstance(length, int) and length % step:
                raise ValueError(
                    f"{side} must be a multiple of {step} (patch_size * 2 ** depth), "
                    f"got {length}. Pad or resize the pictures."
                )
        return super().call(inputs, training=training, mask=mask)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that build the same model again."""
        return {
            **self._options,
            "name": self.name,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> UNetSegmenter:
        """Returns the model that `get_config` describes."""
        return cls(**config)


def _graph(
    inputs: Any,
    widths: list[int],
    normalization: Normalization,
    dropout: float,
    filters_out: int,
    policy: Any,
) -> Any:
    """Returns the logits [B, H, W, filters_out] of a symbolic tensor [B, H, W, D]."""
    layout = _layout()
    shared = {"data_format": layout, "dtype": policy}

    def level(hidden: Any, filters: int, name: str) -> Any:
        for number in (1, 2):
            hidden = ConvBlock(filters, normalization, name=f"{name}_{number}", **shared)(hidden)
        return hidden

    hidden = (
        inputs
        if layout == "channels_last"
        else keras.layers.Permute((3, 1, 2), dtype=policy, name="axes_in")(inputs)
    )
    # On the way up, each level takes the feature map of its size from this list.
    skipped = []
    for number, filters in enumerate(widths[:-1]):
        hidden = level(hidden, filters, f"down{number}")
        skipped.append(hidden)
        hidden = keras.layers.MaxPooling2D(2, name=f"pool{number}", **shared)(hidden)
    hidden = level(hidden, widths[-1], f"down{len(widths) - 1}")
    if dropout:
        hidden = keras.layers.SpatialDropout2D(dropout, name="dropout", **shared)(hidden)
    axis = -1 if layout == "channels_last" else 1
    for number in reversed(range(len(widths) - 1)):
        upsampled = keras.layers.Conv2DTranspose(
            widths[number], 2, strides=2, name=f"up{number}_0", **shared
        )(hidden)
        joined = keras.layers.Concatenate(axis, dtype=policy, name=f"join{number}")(
            [skipped[number], upsampled]
        )
        hidden = level(joined, widths[number], f"up{number}")
    # The head always computes in float32, because the 8 bits of bfloat16's mantissa are too few for
    # probabilities.
    hidden = keras.layers.Conv2D(filters_out, 1, data_format=layout, dtype="float32", name="head")(
        hidden
    )
    return (
        hidden
        if layout == "channels_last"
        else keras.layers.Permute((2, 3, 1), dtype="float32", name="axes_out")(hidden)
    )


def _positive(name: str, value: int) -> int:
    """Returns the value. Raises a ValueError with this name if it is not an int of at least 1."""
    # `bool` is a subclass of `int`, so True would count as 1.
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an int of at least 1, got {value!r}.")
    return value
