"""The features of one frozen tower on disk, under a digest of all that they were made from.

The name of the folder holds a digest of the tower's frozen weights and options, and of the
preprocessing. The key of an entry is a digest of the content of the file or text. If any of them
changes, it is another entry. A stale entry is therefore never read.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import datasets
import numpy as np
import pyarrow as pa
import torch
from datasets.arrow_writer import ArrowWriter
from torch import Tensor
from transformers.utils import logging
from transformers.utils.logging import tqdm

from ..model.encoder_base import Encoder
from ..model.graph import evaluating
from ..model.images import load_image
from ..model.masking import masked_mean, normalized
from ..model.missing import is_blank
from ..model.modalities import MODALITIES
from ..model.modeling import FusionClassifier
from ..model.parts import Parts
from ..model.processing import FusionProcessor
from ..model.types import Encoded, Hidden
from .digests import add_tensors

logger = logging.get_logger(__name__)

_FEATURES = datasets.Features(
    {
        "key": datasets.Value("string"),
        "shape": datasets.Sequence(datasets.Value("int64")),
        "state": datasets.Value("binary"),
        "pooled": datasets.Value("binary"),
    }
)


@final
class TowerCache:
    """The features of one frozen tower, on disk: content key -> state [..], pooled [D] or None.

    Args:
        model: the classifier whose tower it is.
        processor: how its inputs are made.
        modality: "image" or "text".
        folder: where caches lie; this tower's entries get a folder of their own in it.
    """

    def __init__(
        self, model: FusionClassifier, processor: FusionProcessor, modality: str, folder: Path
    ):
        self.model, self.processor, self.modality = model, processor, modality
        self.encoder: Encoder = getattr(model, f"{modality}_encoder")
        self.point = model.cache_point(modality)
        self.folder = folder / f"{modality}-{self._fingerprint(self._needed())[:32]}"
        self._places: dict[str, tuple[int, int]] = {}
        self._tables: list[pa.Table] = []
        for file in sorted(self.folder.glob("*.arrow")):
            self._read(file)
        # Where every token was stored for another model, the pooled vector is there, too.
        own = len(self._tables)
        if self.point.pooled and self._needed() == "pooled":
            richer = folder / f"{modality}-{self._fingerprint('all')[:32]}"
            for file in sorted(richer.glob("*.arrow")):
                self._read(file)
        self._richer = range(own, len(self._tables))

    def add(self, sources: Mapping[str, Any], *, batch_size: int) -> None:
        """Encodes and stores the sources whose key is not there yet.

        Args:
            sources: content key -> picture or text.
            batch_size: how many are encoded at once, at least 1.
        """
        missing = [key for key in sources if key not in self._places]
        if not missing:
            return
        if self.modality == "text":
            # Texts of similar length share a batch, so that little padding is computed.
            missing.sort(key=lambda key: len(sources[key]))
        self.folder.mkdir(parents=True, exist_ok=True)
        # Written under another name and renamed when complete: a run that is killed leaves no file
        # that looks whole.
        unfinished = self.folder / f"{uuid.uuid4().hex}.part"
        try:
            with ArrowWriter(path=str(unfinished), features=_FEATURES) as writer:
                starts = range(0, len(missing), batch_size)
                for start in tqdm(starts, desc=f"encode {self.modality}s", unit="batch"):
                    keys = missing[start : start + batch_size]
                    features = self._encode([sources[key] for key in keys])
                    for key, (state, pooled) in zip(keys, features, strict=True):
                        writer.write(_entry(key, state, pooled))
                writer.finalize()
        except BaseException:
            # A full disk, for example, must not be filled further by what is of no use.
            unfinished.unlink(missing_ok=True)
            raise
        # The name is the digest of the content, so that later damage is seen.
        complete = self.folder / f"{_digest(unfinished)}.arrow"
        os.replace(unfinished, complete)
        self._read(complete)

    def get(self, key: str) -> tuple[Tensor, Tensor | None]:
        """Returns the stored state and, where the whole tower is stored, the pooled vector [D].

        Args:
            key: of the content.

        Raises:
            KeyError: when nothing is stored under `key`.
        """
        part, row = self._places[key]
        table = self._tables[part]
        pooled = table["pooled"][row].as_buffer()
        if part in self._richer:
            vector = _from_bytes(pooled)
            return vector[None], vector
        state = _from_bytes(table["state"][row].as_buffer()).reshape(table["shape"][row].as_py())
        return state, None if pooled is None else _from_bytes(pooled)

    def _read(self, file: Path) -> None:
        """Reads the entries of a file; a damaged file is deleted, so that they are made anew."""
        if not _is_whole(file):
            logger.warning(f"{file} is damaged. It is deleted, and its features are made anew.")
            file.unlink(missing_ok=True)
            return
        table = datasets.Dataset.from_file(str(file)).data.table
        part = len(self._tables)
        self._tables.append(table)
        for row, key in enumerate(table["key"].to_pylist()):
            self._places.setdefault(key, (part, row))

    @torch.no_grad()
    def _encode(self, sources: Sequence[Any]) -> Iterator[tuple[Tensor, Tensor | None]]:
        device = next(self.encoder.parameters()).device
        given: dict[str, Any] = {
            "image": {"images": list(sources)},
            "text": {"text": list(sources)},
        }
        batch = self.processor(**given[self.modality])
        inputs = tuple(batch[name].to(device) for name in MODALITIES[self.modality].encoded)
        if self.modality == "image" and inputs[0].ndim == 5:
            # Each picture of a study is stored by itself.
            inputs = (inputs[0][:, 0],)
        windows = None
        if self.modality == "text" and inputs[0].ndim == 3:
            counts = inputs[1].sum(-1)
            there = counts > 0
            windows = Parts(there, there.tolist(), weights=counts, lengths=counts.tolist())
            inputs = (windows.select(inputs[0]), windows.select(inputs[1]))
        with evaluating(self.encoder):
            if self.point.pooled:
                encoded = self.encoder(*inputs)
                if self.model.config.normalize_embeddings:
                    encoded = normalized(encoded)
                hidden = self._whole(encoded if windows is None else windows.join(encoded))
            else:
                hidden = self.encoder.walk(0, self.point.block, self.encoder.embed(*inputs))
        for row in range(len(sources)):
            state = hidden.values[row]
            if self.modality == "text" and hidden.mask is not None:
                # Texts are stored without their padding. The images of a batch have none.
                state = state[hidden.mask[row]]
            yield state, None if hidden.pooled is None else hidden.pooled[row]

    def _whole(self, encoded: Encoded) -> Hidden:
        """Returns what to store if the whole tower is cached."""
        needed = self._needed()
        if needed == "all":
            return Hidden(encoded.tokens, encoded.mask, encoded.pooled)
        vector = encoded.pooled
        if needed == "mean":
            vector = masked_mean(encoded.tokens, encoded.mask)
        # If no token is real, the single place is masked too: the text stays missing.
        return Hidden(vector[:, None], encoded.mask.any(1, keepdim=True), encoded.pooled)

    def _needed(self) -> str:
        """Returns what the rest of the model needs of this tower.

        "all": every token. "mean": the mean token. "pooled": the pooled vector.
        """
        if len(self.model.modalities) < 2:
            # A fused model with the default mapper needs the mean token of a text. It is stored
            # here, too, so that one entry serves both models.
            return "pooled" if self.modality == "image" else "mean"
        strategy, mapper = self.model.fusion, self.model.mapper
        if self.modality == "image":
            return "all" if needs_image_tokens(self.model) else "pooled"
        if strategy.uses_text_tokens:
            return "all"
        return "mean" if mapper.kind == "identity" or mapper.maps_the_mean else "all"

    def _fingerprint(self, needed: str) -> str:
        """Returns a digest of all that decides what is stored, except for the content itself.

        Args:
            needed: as `_needed` returns it.
        """
        # These options do not change the stored values.
        left_out = ("trainable", "lora", "padding")
        config = self.encoder.config.to_dict()
        described = {
            "format": 4,
            "block": self.point.block,
            "pooled": self.point.pooled,
            "tokens": needed,
            "normalized": self.point.pooled and self.model.config.normalize_embeddings,
            "config": {key: value for key, value in config.items() if key not in left_out},
            "processor": preprocessing(self.processor, self.modality),
        }
        digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode())
        add_tensors(digest, _frozen_tensors(self.encoder))
        return digest.hexdigest()


def needs_image_tokens(model: FusionClassifier) -> bool:
    """Returns whether a classifier reads every token of a picture behind the image encoder.

    Args:
        model: the classifier.
    """
    if len(model.modalities) < 2:
        return False
    return bool(model.fusion.uses_image_tokens or model.mapper.asks_image)


def content_key(source: Any, modality: str) -> str | None:
    """Returns a digest of a file's bytes, a picture's pixels or a text; None for a missing one.

    Args:
        source: a path, a picture or a text.
        modality: "image" or "text".
    """
    if source is None:
        return None
    if modality == "text":
        text = str(source)
        return None if is_blank(text) else hashlib.sha256(text.encode()).hexdigest()
    if isinstance(source, (str, os.PathLike)) and Path(source).is_file():
        return hashlib.sha256(Path(source).read_bytes()).hexdigest()
    picture = load_image(source)
    described = f"{picture.mode}{picture.size}".encode()
    return hashlib.sha256(described + picture.tobytes()).hexdigest()


def content_keys(source: Any, modality: str) -> Any:
    """Returns the `content_key` of a sample, or a list of them for a list of pictures.

    Args:
        source: a path, a picture, a text, a list of pictures, or None.
        modality: "image" or "text".
    """
    if modality == "image" and isinstance(source, (list, tuple)):
        return [content_key(one, modality) for one in source]
    return content_key(source, modality)


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _is_whole(file: Path) -> bool:
    """Returns whether a file holds what was written; its name is the digest of that."""
    found = file.stat()
    facts = (str(file), found.st_size, found.st_mtime_ns)
    # A comparison opens the same files for every training.
    if facts not in _SEEN_WHOLE:
        if _digest(file) != file.stem:
            return False
        _SEEN_WHOLE.add(facts)
    return True


_SEEN_WHOLE: set[tuple[str, int, int]] = set()
"""Path, size and time of files whose content was found to be as written."""


def _entry(key: str, state: Tensor, pooled: Tensor | None) -> dict[str, Any]:
    """Returns what is written for one content."""
    array = _half(state, key)
    vector = None if pooled is None else _half(pooled, key).tobytes()
    return {"key": key, "shape": list(array.shape), "state": array.tobytes(), "pooled": vector}


def _from_bytes(buffer: Any) -> Tensor:
    content = bytearray(buffer)
    if not content:
        # torch.frombuffer rejects an empty buffer, which a text without tokens gives.
        return torch.empty(0, dtype=torch.float16)
    return torch.frombuffer(content, dtype=torch.float16)


def _half(value: Tensor, key: str) -> np.ndarray[Any, np.dtype[np.float16]]:
    half = value.to(torch.float16).cpu()
    if not bool(half.isfinite().all()):
        raise ValueError(
            f"features must fit half precision (up to 65504), got {float(value.abs().max())!r} "
            f"for content {key[:12]}. Train without the cache."
        )
    return half.numpy()


def preprocessing(processor: FusionProcessor, modality: str) -> dict[str, Any]:
    """Returns what a processor does to the pictures or the texts, as JSON can hold it.

    Args:
        processor: with a part for the modality.
        modality: "image" or "text".
    """
    if modality == "image":
        return {"input_spec": processor.input_spec, "fit": processor.fit}
    described = {
        "tokenizer": tokenizer_digest(processor.tokenizer),
        "max_length": processor.max_length,
    }
    if processor.long_text != "truncate":
        described |= {"long_text": processor.long_text, "overlap": processor.overlap}
    return described


def tokenizer_digest(tokenizer: Any) -> str:
    """Returns a digest of what a tokenizer does to a text.

    Args:
        tokenizer: of transformers.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # A call leaves its padding and truncation behind, which the next call replaces.
        described = json.loads(backend.to_str()) | {"padding": None, "truncation": None}
        table = json.dumps(described, sort_keys=True)
    else:
        table = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return hashlib.sha256(table.encode()).hexdigest()


def _frozen_tensors(encoder: Encoder) -> Iterator[tuple[str, Tensor]]:
    """Yields every parameter and buffer that training leaves as it is, in a fixed order.

    Buffers of a module whose own parameters train are left out: batch statistics change.
    """
    for name, module in encoder.backbone.named_modules():
        parameters = list(module.named_parameters(recurse=False))
        for leaf, value in parameters:
            if not value.requires_grad:
                yield f"{name}.{leaf}", value
        if not any(value.requires_grad for _, value in parameters):
            for leaf, value in module.named_buffers(recurse=False):
                yield f"{name}.{leaf}", value
