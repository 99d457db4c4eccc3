"""The processor that turns images and texts into model inputs. It is saved beside the model."""

import inspect
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self, TypeAlias, final

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, BatchFeature, PreTrainedTokenizerBase, ProcessorMixin
from transformers.utils import logging

from .configuration import FusionConfig, is_installed
from .encoder_image import ImageEncoder
from .encoder_text import TextEncoder
from .images import ImageSource, load_image
from .missing import is_blank
from .processing_inputs import (
    aligned,
    as_list,
    as_views,
    check_keywords,
    check_samples,
    check_vocabulary,
    checked_count,
    checked_max_length,
    load_tokenizer,
    saved_tokenizer,
)
from .processing_open_clip import tokenizer_of
from .processing_published import published_of
from .processing_size import checked_fit, checked_spec, fitted, normalised
from .processing_text import checked_long_text, tokenized
from .template import template_columns, write_text
from .validation import closest, described_errors

logger = logging.get_logger(__name__)

_PROCESSOR_FILE = "processor_config.json"

Text: TypeAlias = str | Mapping[str, Any]
"""A text, or the values of the columns that a template writes it from."""


@final
class FusionProcessor(ProcessorMixin):
    """The processor that turns images and texts into the inputs of `FusionClassifier`.

    Images are paths, PIL images, arrays, tensors or DICOM objects. Each sample may lack one
    modality: the image is None, or the text is None, empty or only spaces. `image_present` and
    `text_present` mark what is missing.

    Args:
        tokenizer: a transformers tokenizer; None for a processor of images alone.
        input_spec: `ImageEncoder.input_spec` (`size` [H, W] in pixels, `channels`, `mean`, `std`,
            `interpolation`, `channel_order`, `published`); None for a processor of texts alone.
        max_length: the largest number of tokens in a text. Longer texts are cut, and the log says
            so once. None means no limit.
        fit: how a picture of another shape is brought to `size`. "squash" scales each side by
            itself. "pad" keeps the shape and adds black bars. "crop" keeps the shape and takes the
            middle of the longer side. "published" is what the checkpoint was published with: its
            own image processor, or timm's own transform. Many of these cut off the borders of a
            picture, and the log says so once. The other three change only the size: the colours are
            normalised as published. None means "published" if `input_spec` has such an entry, which
            it has after published weights were loaded, and "squash" if not.
        template: a sentence with names of columns in braces, such as "{sex}, {age} years.". A text
            may then be a mapping of columns to values (`mmfusion.model.template`).
        num_views: the most pictures of one sample. Above 1, a sample's images may be a list of
            them; None in it stands for a picture that is not there.
        long_text: what happens to texts longer than `max_length`. "truncate" keeps their beginning,
            "head_tail" a quarter from their beginning and the rest from their end. "chunk" keeps
            all, in windows that the classifier encodes one by one.
        overlap: how many tokens two windows share; None means 0.

    Raises:
        ValueError: for an unknown `fit` or interpolation, for a mean that is not finite or a std of
            0, for a tokenizer that cannot pad, if both parts are None, or with "published" if the
            checkpoint's own preprocessing does not give pixels of one size.

    Example:
        >>> import numpy as np
        >>> from mmfusion import ImageEncoder
        >>> encoder = ImageEncoder("resnet10t", pretrained=False)
        >>> processor = FusionProcessor.from_encoders(encoder, None)
        >>> inputs = processor(images=[np.zeros((9, 9), np.uint8)])
        >>> inputs["pixel_values"].shape, inputs["image_present"].tolist()
        (torch.Size([1, 3, 176, 176]), [True])
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None = None,
        input_spec: Mapping[str, Any] | None = None,
        max_length: int | None = None,
        fit: str | None = None,
        template: str | None = None,
        num_views: int = 1,
        long_text: str = "truncate",
        overlap: int | None = None,
    ):
        if tokenizer is None and input_spec is None:
            raise ValueError(
                "tokenizer or input_spec must be given, got neither. "
                "A processor needs one modality at least."
            )
        if tokenizer is not None and tokenizer.pad_token_id is None:
            raise ValueError(
                "tokenizer must have a padding token, got none. "
                "Set tokenizer.pad_token = tokenizer.eos_token."
            )
        if template is not None:
            template_columns(template)
        # Do not call ProcessorMixin.__init__, because it does not accept None as the tokenizer.
        self.tokenizer = tokenizer
        self.input_spec = None if input_spec is None else checked_spec(input_spec)
        self.max_length = checked_max_length(max_length)
        self.fit = checked_fit(fit, self.input_spec)
        self.template = template
        self.num_views = checked_count("num_views", num_views)
        self.long_text = long_text
        self.overlap = checked_long_text(long_text, overlap, self.max_length, tokenizer)
        self.chat_template = None

    @classmethod
    def from_encoders(
        cls,
        image_encoder: ImageEncoder | None,
        text_encoder: TextEncoder | None,
        *,
        tokenizer: PreTrainedTokenizerBase | str | os.PathLike[str] | None = None,
        max_length: int | None = None,
        fit: str | None = None,
        template: str | None = None,
        num_views: int = 1,
        long_text: str = "truncate",
        overlap: int | None = None,
    ) -> Self:
        """Returns the processor that fits the encoders.

        Args:
            image_encoder: gives size, channels, mean, std and interpolation; None for texts alone.
            text_encoder: gives the tokenizer (the one published with its checkpoint) and the
                largest number of tokens; None for images alone.
            tokenizer: a tokenizer of your own, or its name or folder. It is needed if the text
                encoder was made from a config or a module.
            max_length: a limit below that of the text encoder.
            fit: as for the class.
            template: as for the class.
            num_views: as for the class.
            long_text: as for the class.
            overlap: as for the class.

        Raises:
            ValueError: if the tokenizer is not known, or has more tokens than the text encoder.
        """
        spec = None if image_encoder is None else image_encoder.input_spec
        if text_encoder is None:
            return cls(None, spec, None, fit, num_views=num_views)
        if tokenizer is None:
            tokenizer = tokenizer_of(text_encoder.config)
        elif isinstance(tokenizer, (str, os.PathLike)):
            tokenizer = load_tokenizer(tokenizer)
        check_vocabulary(tokenizer, text_encoder.vocab_size)
        given = (checked_max_length(max_length), text_encoder.max_length)
        limit = min((one for one in given if one is not None), default=None)
        return cls(tokenizer, spec, limit, fit, template, num_views, long_text, overlap)

    def __call__(
        self,
        images: ImageSource | Iterable[ImageSource | None] | None = None,
        text: Text | Iterable[Text | None] | None = None,
        *,
        return_tensors: str | None = "pt",
        padding: bool | str = True,
        truncation: bool | str = True,
    ) -> BatchFeature:
        """Returns the model inputs of samples.

        Args:
            images: one picture, or several: a list, a tuple, a column of a dataset or of pandas, an
                array of paths, or an array [B, H, W, C] or [B, C, H, W]. None or NaN stands for a
                missing picture. With `num_views` above 1, a sample may be a list of pictures.
            text: one text, or several in the same ways. None, NaN or an empty text stands for a
                missing text. With a template, a text may be a mapping of columns to values.
            return_tensors: "pt" or None, which means the same.
            padding: True or "longest".
            truncation: True.

        Returns:
            `pixel_values` [B, C, H, W] and `image_present` [B] if the processor has an image part;
            `input_ids` and `attention_mask` [B, L] and `text_present` [B] if it has a text part.
            With `num_views` above 1: [B, V, C, H, W] and [B, V]. With texts in windows: [B, W, L].

        Raises:
            ImageError: if a picture cannot be read.
            ValueError: if the lists differ in length, a sample has neither modality, the processor
                has no part for a modality, or another value of the last three is given.
            TypeError: if a text is neither a string nor, with a template, a mapping.
        """
        check_keywords(return_tensors, padding, truncation)
        data = self.inputs_of(images, text)
        check_samples(data)
        return data

    def inputs_of(
        self,
        images: ImageSource | Iterable[ImageSource | None] | None = None,
        text: Text | Iterable[Text | None] | None = None,
    ) -> BatchFeature:
        """Returns what a call returns, also of samples that have neither modality.

        Args:
            images: as for a call.
            text: as for a call.
        """
        pictures, texts = as_list(images, "images"), as_list(text, "text")
        without = [self.input_spec is None, self.tokenizer is None]
        pictures, texts = aligned(pictures, texts, without)
        data: dict[str, Tensor] = {}
        if self.input_spec is not None:
            data |= self._pixels(pictures)
        if self.tokenizer is not None:
            data |= self._tokens(texts)
        return BatchFeature(data)

    def _pixels(self, pictures: list[Any]) -> dict[str, Tensor]:
        """Returns `pixel_values`, zero for missing pictures, and `image_present`."""
        assert self.input_spec is not None
        height, width = self.input_spec["size"]
        studies = [as_views(sample, self.num_views, row) for row, sample in enumerate(pictures)]
        pixels = torch.zeros(
            len(studies), self.num_views, self.input_spec["channels"], height, width
        )
        for row, views in enumerate(studies):
            for place, picture in enumerate(views):
                if picture is not None:
                    pixels[row, place] = self.pixel_values(load_image(picture))
        present = torch.tensor([[picture is not None for picture in views] for views in studies])
        if self.num_views == 1:
            pixels, present = pixels[:, 0], present[:, 0]
        return {"pixel_values": pixels, "image_present": present}

    def pixel_values(self, image: Image.Image) -> Tensor:
        """Returns the normalised pixels [C, H, W] of a decoded image: (p / 255 - mean) / std.

        With fit="published" they are what the checkpoint's own processor gives.

        Args:
            image: the image.

        Raises:
            ValueError: if the processor has no image part.
            ImageError: if the checkpoint's own processor refuses a picture of this shape.
        """
        spec = self.input_spec
        if spec is None:
            advice = "Make the processor with an image encoder."
            raise ValueError(f"input_spec must be given for images, got None. {advice}")
        image = image.convert("L" if spec["channels"] == 1 else "RGB")
        if self.fit == "published":
            return published_of(spec)(image)
        return normalised(fitted(image, spec["size"], spec["interpolation"], self.fit), spec)

    def _tokens(self, texts: list[Any]) -> dict[str, Tensor]:
        """Returns `input_ids`, `attention_mask` and `text_present`."""
        assert self.tokenizer is not None
        if self.template is not None:
            written = self.template
            texts = [write_text(written, t) if isinstance(t, Mapping) else t for t in texts]
        for row, value in enumerate(texts):
            if value is not None and not isinstance(value, str):
                raise TypeError(
                    f"text must be a string or None, got {value!r} in row {row}. Convert it first."
                )
        present = [not is_blank(value) for value in texts]
        filled = [value if here else "" for value, here in zip(texts, present, strict=True)]
        limits = {"max_length": self.max_length, "overlap": self.overlap}
        found = tokenized(self.tokenizer, filled, long_text=self.long_text, **limits)
        if found.cut:
            logger.warning_once(
                f"Texts are cut to the text encoder's limit of {self.max_length} tokens."
            )
        flags = torch.tensor(present)
        # A tokenizer adds special tokens even to an empty text. A missing text has no real token.
        mask = found.mask * flags.view(-1, *[1] * (found.mask.ndim - 1))
        return {"input_ids": found.ids, "attention_mask": mask, "text_present": flags}

    @property
    def model_input_names(self) -> list[str]:
        """The names of the model inputs that this processor makes."""
        image = ["pixel_values", "image_present"] if self.input_spec is not None else []
        text = ["input_ids", "attention_mask", "text_present"] if self.tokenizer is not None else []
        return image + text

    def to_dict(self) -> dict[str, Any]:
        """Returns the saved entries; those that were added later are left out at their defaults."""
        entries: dict[str, Any] = super().to_dict()
        added = {"num_views": 1, "long_text": "truncate", "overlap": None}
        return {key: value for key, value in entries.items() if (key, value) not in added.items()}

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> list[str]:
        """Writes the processor and its tokenizer into a folder, as JSON and without pickles.

        Args:
            save_directory: the folder.
            push_to_hub: as transformers' ProcessorMixin takes it.
            **kwargs: as transformers' ProcessorMixin takes them.

        Returns:
            The paths of the files.
        """
        if self.tokenizer is not None:
            written: list[str] = super().save_pretrained(
                save_directory, push_to_hub=push_to_hub, **kwargs
            )
            return written
        # transformers' method needs a tokenizer.
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _PROCESSOR_FILE).write_text(self.to_json_string(), encoding="utf-8")
        return [str(folder / _PROCESSOR_FILE)]

    @classmethod
    def get_processor_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> Any:
        """Returns the saved entries and the options that are left, as transformers calls it.

        Args:
            pretrained_model_name_or_path: the folder or hub name.
            **kwargs: as transformers passes them.

        Raises:
            ValueError: if the file is damaged.
        """
        name = pretrained_model_name_or_path
        what = f"{_PROCESSOR_FILE} of {os.fspath(name)!r}"
        with described_errors(what, "be JSON in UTF-8", "Fetch or save it again."):
            return super().get_processor_dict(name, **kwargs)

    @classmethod
    def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Returns the processor of a saved config. transformers calls this.

        Args:
            args: the positional arguments of the class.
            processor_dict: the saved config.
            **kwargs: arguments of the class, which override the saved ones, and
                `return_unused_kwargs`, as transformers passes it.

        Raises:
            ValueError: for an entry of the config that the class does not take.
        """
        valid = set(inspect.signature(cls.__init__).parameters) - {"self"}
        own = {
            key: value
            for key, value in processor_dict.items()
            if key not in ("processor_class", "auto_map")
        }
        for key in own:
            if key not in valid:
                raise ValueError(
                    f"{_PROCESSOR_FILE} has an unknown entry {key!r}. {closest(key, sorted(valid))}"
                )
        return_unused = kwargs.pop("return_unused_kwargs", False)
        own |= {key: kwargs.pop(key) for key in list(kwargs) if key in valid}
        # `args` holds the tokenizer already.
        own.pop("tokenizer", None)
        processor = cls(*args, **own)
        return (processor, kwargs) if return_unused else processor

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, processor_dict: Any = None, **kwargs: Any
    ) -> list[Any]:
        """Returns the tokenizer beside the saved config, or None if there is none, in a list."""
        name = pretrained_model_name_or_path
        folder = Path(name)
        if folder.is_dir() and not any(folder.glob("tokenizer*")):
            return [None]
        return [saved_tokenizer(name, kwargs)]

    def __repr__(self) -> str:
        described = {
            "tokenizer": type(self.tokenizer).__name__,
            "input_spec": self.input_spec,
            "max_length": self.max_length,
            "fit": self.fit,
        }
        return f"FusionProcessor({json.dumps(described)})"


# A copy of this file that came with a pushed model must not replace the installed class.
if is_installed(__name__):
    AutoProcessor.register(FusionConfig, FusionProcessor, exist_ok=True)
