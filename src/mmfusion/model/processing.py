"""FusionProcessor: images and texts in, model inputs out; saved beside the model."""

import inspect
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    BatchFeature,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.utils import logging

from .configuration import FusionConfig, is_installed
from .encoder_image import ImageEncoder
from .encoder_text import TextEncoder
from .images import ImageSource, load_image
from .missing import is_blank
from .validation import closest

logger = logging.get_logger(__name__)

_FIT = ("squash", "pad", "crop")
_INTERPOLATION = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_PROCESSOR_FILE = "processor_config.json"


class FusionProcessor(ProcessorMixin):
    """Images (paths, PIL images, arrays, DICOM) and texts in, what `FusionClassifier` takes out.

    Either modality may be missing, sample by sample: None, an empty text, or one of spaces alone.
    Missing ones are marked in `image_present` and `text_present`.

    Args:
        tokenizer: a transformers tokenizer; None for a processor of images alone.
        input_spec: `ImageEncoder.input_spec` (`size` [H, W] in pixels, `channels`, `mean`, `std`,
            `interpolation`); None for a processor of texts alone.
        max_length: the most tokens of a text; longer ones are cut, and the log says so once. None
            means no limit.
        fit: how a picture of another shape meets `size`: "squash" (each side by itself), "pad"
            (shape kept, black beside it), "crop" (shape kept, the middle of the longer side).

    Raises:
        ValueError: for an unknown `fit` or interpolation, a tokenizer that cannot pad, or when both
            parts are None.

    Example:
        >>> import numpy as np
        >>> from mmfusion import ImageEncoder
        >>> processor = FusionProcessor.from_encoders(ImageEncoder("resnet10t", pretrained=False), None)
        >>> inputs = processor(images=[np.zeros((9, 9), np.uint8)])
        >>> inputs["pixel_values"].shape, inputs["image_present"].tolist()
        (torch.Size([1, 3, 176, 176]), [True])
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None = None,
        input_spec: Mapping[str, Any] | None = None,
        max_length: int | None = None,
        fit: str = "squash",
    ):
        if tokenizer is None and input_spec is None:
            raise ValueError(
                "tokenizer or input_spec must be given, got neither. A processor needs one modality at least."
            )
        if fit not in _FIT:
            raise ValueError(
                f"fit must be one of {list(_FIT)}, got {fit!r}. {closest(fit, list(_FIT))}"
            )
        if tokenizer is not None and tokenizer.pad_token_id is None:
            raise ValueError(
                "tokenizer must have a padding token, got none. Set tokenizer.pad_token = tokenizer.eos_token."
            )
        self.tokenizer = tokenizer
        self.input_spec = None if input_spec is None else _checked_spec(input_spec)
        self.max_length = max_length
        self.fit = fit
        self.chat_template = None

    @classmethod
    def from_encoders(
        cls,
        image_encoder: ImageEncoder | None,
        text_encoder: TextEncoder | None,
        *,
        tokenizer: PreTrainedTokenizerBase | str | os.PathLike[str] | None = None,
        max_length: int | None = None,
        fit: str = "squash",
    ) -> Self:
        """The processor that the encoders ask for.

        Args:
            image_encoder: tells size, channels, mean, std and interpolation; None for texts alone.
            text_encoder: tells the tokenizer (the one published with its checkpoint) and the most
                tokens; None for images alone.
            tokenizer: one of your own, its name or folder; needed where the text encoder was made
                from a config or a module.
            max_length: a limit below the text encoder's own.
            fit: as for the class.

        Raises:
            ValueError: when no tokenizer can be told, or it knows more tokens than the text
                encoder.
        """
        if text_encoder is None:
            return cls(
                None, image_encoder.input_spec if image_encoder is not None else None, None, fit
            )
        if tokenizer is None:
            tokenizer = text_encoder.config.name
        if isinstance(tokenizer, (str, os.PathLike)):
            tokenizer = _load_tokenizer(tokenizer)
        if text_encoder.vocab_size is not None and len(tokenizer) > text_encoder.vocab_size:
            raise ValueError(
                f"tokenizer must know at most the text encoder's {text_encoder.vocab_size} tokens, got {len(tokenizer)}. "
                "Use the tokenizer published with the text encoder."
            )
        limits = [limit for limit in (max_length, text_encoder.max_length) if limit is not None]
        spec = None if image_encoder is None else image_encoder.input_spec
        return cls(tokenizer, spec, min(limits) if limits else None, fit)

    def __call__(
        self,
        images: ImageSource | Sequence[ImageSource | None] | None = None,
        text: str | Sequence[str | None] | None = None,
    ) -> BatchFeature:
        """Model inputs.

        Args:
            images: one picture or a list, None for a missing one.
            text: one text or a list, None or an empty one for a missing one.

        Returns:
            `pixel_values` [B, C, H, W] and `image_present` [B] where the processor has an image
            part, `input_ids` and `attention_mask` [B, L] and `text_present` [B] where it has a text
            part.

        Raises:
            ImageError: naming the picture that cannot be read.
            ValueError: when the lists differ in length, a sample has neither modality, or a
                modality has no part here.
            TypeError: when a text is no string.
        """
        pictures = _as_list(images, "images")
        texts = _as_list(text, "text")
        pictures, texts = self._aligned(pictures, texts)
        data: dict[str, Tensor] = {}
        if self.input_spec is not None:
            data |= self._pixels(pictures)
        if self.tokenizer is not None:
            data |= self._tokens(texts)
        present = [data[name] for name in ("image_present", "text_present") if name in data]
        nothing = (~torch.stack(present).any(0)).nonzero().flatten().tolist()
        if nothing:
            raise ValueError(
                f"every sample must have an image or a text, got neither in rows {nothing[:10]}. Leave them out."
            )
        return BatchFeature(data)

    def _aligned(
        self, pictures: list[Any] | None, texts: list[Any] | None
    ) -> tuple[list[Any], list[Any]]:
        if pictures is None and texts is None:
            raise ValueError(
                "images or text must be given, got neither. Pass one of them, or both."
            )
        for values, name, part in (
            (pictures, "images", self.input_spec),
            (texts, "text", self.tokenizer),
        ):
            if values is not None and part is None and any(value is not None for value in values):
                raise ValueError(
                    f"{name} must be left out of a processor without that part, got {len(values)}."
                )
        length = len(pictures if pictures is not None else texts or [])
        if pictures is not None and texts is not None and len(texts) != length:
            raise ValueError(
                f"images and text must be equally many, got {length} and {len(texts)}. Use None for a missing one."
            )
        return pictures or [None] * length, texts or [None] * length

    def _pixels(self, pictures: list[Any]) -> dict[str, Tensor]:
        assert self.input_spec is not None
        height, width = self.input_spec["size"]
        pixels = torch.zeros(len(pictures), self.input_spec["channels"], height, width)
        for row, picture in enumerate(pictures):
            if picture is not None:
                pixels[row] = self.pixel_values(load_image(picture))
        present = torch.tensor([picture is not None for picture in pictures])
        return {"pixel_values": pixels, "image_present": present}

    def pixel_values(self, image: Image.Image) -> Tensor:
        """The normalised pixels [C, H, W] of a decoded image: (p / 255 - mean) / std.

        Raises:
            ValueError: when the processor has no image part.
        """
        spec = self.input_spec
        if spec is None:
            raise ValueError(
                "input_spec must be given for images, got None. Make the processor with an image encoder."
            )
        image = _fitted(
            image.convert("L" if spec["channels"] == 1 else "RGB"),
            spec["size"],
            spec["interpolation"],
            self.fit,
        )
        array = np.asarray(image, dtype=np.float32) / 255
        tensor = torch.from_numpy(array[..., None] if array.ndim == 2 else array)
        return rearrange(
            (tensor - torch.tensor(spec["mean"])) / torch.tensor(spec["std"]), "h w c -> c h w"
        )

    def _tokens(self, texts: list[Any]) -> dict[str, Tensor]:
        assert self.tokenizer is not None
        for row, value in enumerate(texts):
            if value is not None and not isinstance(value, str):
                raise TypeError(
                    f"text must be a string or None, got {value!r} in row {row}. Convert it first."
                )
        present = [not is_blank(value) for value in texts]
        filled = [value if here else "" for value, here in zip(texts, present, strict=True)]
        options: dict[str, Any] = (
            {"truncation": True, "max_length": self.max_length} if self.max_length else {}
        )
        encoded = self.tokenizer(
            filled, padding=True, return_tensors="pt", return_overflowing_tokens=False, **options
        )
        mask = encoded["attention_mask"] * torch.tensor(present)[:, None]
        reached = self.max_length is not None and bool((mask.sum(1) >= self.max_length).any())
        # A fast tokenizer tells what it left out; of another one, a text that reaches the limit may
        # have been cut.
        if reached and (not encoded.encodings or any(one.overflowing for one in encoded.encodings)):
            logger.warning_once(
                f"Texts are cut to the text encoder's limit of {self.max_length} tokens."
            )
        return {
            "input_ids": encoded["input_ids"],
            "attention_mask": mask,
            "text_present": torch.tensor(present),
        }

    @property
    def model_input_names(self) -> list[str]:
        """The names of what it makes."""
        image = ["pixel_values", "image_present"] if self.input_spec is not None else []
        text = ["input_ids", "attention_mask", "text_present"] if self.tokenizer is not None else []
        return image + text

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> list[str]:
        """Write the processor, and its tokenizer, into a folder; JSON alone, no pickle. Returns the files."""
        if self.tokenizer is not None:
            written: list[str] = super().save_pretrained(
                save_directory, push_to_hub=push_to_hub, **kwargs
            )
            return written
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _PROCESSOR_FILE).write_text(self.to_json_string(), encoding="utf-8")
        return [str(folder / _PROCESSOR_FILE)]

    @classmethod
    def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """The processor of a saved config; a misspelt entry is an error. transformers calls this."""
        known = set(inspect.signature(cls.__init__).parameters) - {"self"}
        own = {
            key: value
            for key, value in processor_dict.items()
            if key not in ("processor_class", "auto_map")
        }
        for key in own:
            if key not in known:
                raise ValueError(
                    f"{_PROCESSOR_FILE} has an unknown entry {key!r}. {closest(key, sorted(known))}"
                )
        return_unused = kwargs.pop("return_unused_kwargs", False)
        own |= {key: kwargs.pop(key) for key in list(kwargs) if key in known}
        own.pop("tokenizer", None)
        processor = cls(*args, **own)
        return (processor, kwargs) if return_unused else processor

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, processor_dict: Any = None, **kwargs: Any
    ) -> list[Any]:
        """The tokenizer beside the saved config, where there is one."""
        name = pretrained_model_name_or_path
        folder = Path(name)
        if folder.is_dir() and not any(folder.glob("tokenizer*")):
            return [None]
        options = {
            key: value for key, value in kwargs.items() if key in ("revision", "token", "cache_dir")
        }
        # An empty config: the one in the folder is the classifier's, which tells a tokenizer
        # nothing.
        return [AutoTokenizer.from_pretrained(name, config=PreTrainedConfig(), **options)]

    def __repr__(self) -> str:
        described = {"tokenizer": type(self.tokenizer).__name__, "input_spec": self.input_spec}
        return f"FusionProcessor({json.dumps(described | {'max_length': self.max_length, 'fit': self.fit})})"


def _as_list(values: Any, name: str) -> list[Any] | None:
    """One sample or many as a list; None stays None (the modality was left out)."""
    if values is None:
        return None
    values = list(values) if isinstance(values, (list, tuple)) else [values]
    if not values:
        raise ValueError(f"{name} must be at least one sample, got an empty list.")
    return values


def _checked_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    known = {"size", "channels", "mean", "std", "interpolation"}
    for key in sorted(spec.keys() ^ known):
        state = "lacks" if key in known else "has an unknown"
        raise ValueError(f"input_spec {state} entry {key!r}. {closest(key, sorted(known))}")
    if spec["interpolation"] not in _INTERPOLATION:
        names = sorted(_INTERPOLATION)
        raise ValueError(
            f"interpolation must be one of {names}, got {spec['interpolation']!r}. {closest(spec['interpolation'], names)}"
        )
    if (
        spec["channels"] not in (1, 3)
        or len(spec["mean"]) != spec["channels"]
        or len(spec["std"]) != spec["channels"]
    ):
        raise ValueError(
            f"channels must be 1 or 3 with a mean and std for each, got {dict(spec)!r}."
        )
    return dict(spec) | {"size": [int(side) for side in spec["size"]]}


def _fitted(image: Image.Image, size: Sequence[int], interpolation: str, fit: str) -> Image.Image:
    """The image at `size` [H, W]."""
    height, width = size
    resampling = _INTERPOLATION[interpolation]
    if fit == "squash":
        return image.resize((width, height), resampling)
    ratios = width / image.width, height / image.height
    scale = min(ratios) if fit == "pad" else max(ratios)
    scaled = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), resampling
    )
    canvas = Image.new(image.mode, (width, height))
    canvas.paste(scaled, ((width - scaled.width) // 2, (height - scaled.height) // 2))
    return canvas


def _load_tokenizer(name: str | os.PathLike[str]) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"tokenizer must be given for a text encoder without a checkpoint, and {os.fspath(name)!r} has none: "
            f"{str(error).splitlines()[0]} Pass tokenizer=..."
        ) from error


if is_installed(__name__):
    AutoProcessor.register(FusionConfig, FusionProcessor, exist_ok=True)
