"""What frozen towers compute, computed once.

With frozen towers most of an epoch repeats itself. `cache_features` encodes every sample once, up
to the first block that trains or that the fusion strategy acts in, and stores the result (Arrow,
half precision). The Trainer then reads that instead of pictures and texts, and gets the same
results.

An entry is found by what it was made from: the tower's frozen weights and options, the
preprocessing, the content of the file or text. Change any of them and it is another entry, so a
stale one cannot be read.
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
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from ..data.collate import FusionCollator
from ..model.graph import evaluating
from ..model.images import load_image
from ..model.modeling import FusionClassifier
from ..model.processing import FusionProcessor
from ..model.types import Encoded, Hidden, masked_mean

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
    """What one frozen tower computed, on disk: content key -> state [..], pooled [D] or None.

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
        self.encoder = getattr(model, f"{modality}_encoder")
        self.block = model.cache_block(modality)
        self.folder = folder / f"{modality}-{self._fingerprint()[:32]}"
        self._places: dict[str, tuple[int, int]] = {}
        self._tables: list[pa.Table] = []
        for file in sorted(self.folder.glob("*.arrow")):
            self._read(file)

    @property
    def is_pooled(self) -> bool:
        """Whether the whole tower is stored, its pooling included."""
        return bool(self.block > self.encoder.num_blocks)

    def add(self, sources: Mapping[str, Any], *, batch_size: int) -> None:
        """Encode and store the sources whose key is not there yet.

        Args:
            sources: content key -> picture or text.
            batch_size: how many are encoded at once, at least 1.
        """
        missing = [key for key in sources if key not in self._places]
        if not missing:
            return
        if self.modality == "text":
            # Texts of one length share a batch, so that little padding is computed.
            missing.sort(key=lambda key: len(sources[key]))
        self.folder.mkdir(parents=True, exist_ok=True)
        # Written under another name and renamed when complete: a run that is killed leaves nothing
        # that looks whole.
        unfinished = self.folder / f"{uuid.uuid4().hex}.part"
        with ArrowWriter(path=str(unfinished), features=_FEATURES) as writer:
            for start in tqdm(
                range(0, len(missing), batch_size), desc=f"encode {self.modality}s", unit="batch"
            ):
                keys = missing[start : start + batch_size]
                for key, (state, pooled) in zip(
                    keys, self._encode([sources[key] for key in keys]), strict=True
                ):
                    array = _half(state, key)
                    vector = None if pooled is None else _half(pooled, key).tobytes()
                    writer.write(
                        {
                            "key": key,
                            "shape": list(array.shape),
                            "state": array.tobytes(),
                            "pooled": vector,
                        }
                    )
            writer.finalize()
        complete = unfinished.with_suffix(".arrow")
        os.replace(unfinished, complete)
        self._read(complete)

    def get(self, key: str) -> tuple[Tensor, Tensor | None]:
        """The stored state and, where the whole tower is stored, the pooled vector [D].

        Raises:
            KeyError: when nothing is stored under `key`.
        """
        part, row = self._places[key]
        table = self._tables[part]
        shape = table["shape"][row].as_py()
        content = bytearray(table["state"][row].as_buffer())
        # torch reads no empty buffer; a text without a token is one.
        state = (
            torch.frombuffer(content, dtype=torch.float16)
            if content
            else torch.empty(0, dtype=torch.float16)
        )
        pooled = table["pooled"][row].as_buffer()
        return state.reshape(shape), None if pooled is None else torch.frombuffer(
            bytearray(pooled), dtype=torch.float16
        )

    def _read(self, file: Path) -> None:
        table = datasets.Dataset.from_file(str(file)).data.table
        part = len(self._tables)
        self._tables.append(table)
        self._places |= {key: (part, row) for row, key in enumerate(table["key"].to_pylist())}

    @torch.no_grad()
    def _encode(self, sources: Sequence[Any]) -> Iterator[tuple[Tensor, Tensor | None]]:
        device = next(self.encoder.parameters()).device
        if self.modality == "image":
            inputs: tuple[Tensor, ...] = (
                self.processor(images=list(sources))["pixel_values"].to(device),
            )
        else:
            batch = self.processor(text=list(sources))
            inputs = (batch["input_ids"].to(device), batch["attention_mask"].bool().to(device))
        with evaluating(self.encoder):
            if self.is_pooled:
                encoded: Encoded = self.encoder(*inputs)
                kept = self._kept()
                if kept == "all":
                    hidden = Hidden(encoded.tokens, encoded.mask, encoded.pooled)
                else:
                    one = (
                        encoded.pooled
                        if kept == "pooled"
                        else masked_mean(encoded.tokens, encoded.mask)
                    )
                    # A text without a token stays one, which is a missing text.
                    hidden = Hidden(one[:, None], encoded.mask.any(1, keepdim=True), encoded.pooled)
            else:
                hidden = self.encoder.walk(0, self.block, self.encoder.embed(*inputs))
        for row in range(len(sources)):
            state = hidden.values[row]
            # Texts are stored without their padding; the images of a batch have none.
            state = (
                state[hidden.mask[row]]
                if hidden.mask is not None and self.modality == "text"
                else state
            )
            yield state, None if hidden.pooled is None else hidden.pooled[row]

    def _kept(self) -> str:
        """What anything after this tower looks at: "all" its tokens, or one vector, their "mean" or the "pooled" one."""
        if len(self.model.modalities) < 2:
            return "pooled"
        strategy, mapper = self.model.fusion, self.model.mapper
        if self.modality == "image":
            return "all" if strategy.uses_image_tokens or mapper.asks_image else "pooled"
        if strategy.uses_text_tokens:
            return "all"
        return "pooled" if mapper.kind == "identity" else "mean" if mapper.maps_the_mean else "all"

    def _fingerprint(self) -> str:
        """A digest of all that decides what is stored, but for the content itself."""
        digest = hashlib.sha256()
        described = {
            "format": 1,
            "block": self.block,
            "tokens": self._kept(),
            "config": {
                k: v
                for k, v in self.encoder.config.items()
                if k not in ("trainable", "lora", "padding")
            },
            "processor": _preprocessing(self.processor, self.modality),
        }
        digest.update(json.dumps(described, sort_keys=True, default=str).encode())
        for name, value in _frozen_tensors(self.encoder):
            digest.update(name.encode())
            digest.update(
                value.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().data
            )
        return digest.hexdigest()


@final
class CachedDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """The rows of a dataset with what frozen towers made of them in the place of their pictures and texts."""

    def __init__(
        self,
        dataset: datasets.Dataset,
        keys: Mapping[str, Sequence[str | None]],
        caches: Mapping[str, TowerCache],
    ):
        self.dataset = dataset
        self.keys = keys
        self.caches = caches
        kept = [name for name in dataset.column_names if name not in caches]
        self._rest = dataset.select_columns(kept) if kept else None

    @property
    def column_names(self) -> list[str]:
        """The names of the columns of the dataset behind it."""
        return list(self.dataset.column_names)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that are stored."""
        return tuple(self.caches)

    def select(self, indices: Sequence[int]) -> "CachedDataset":
        """The rows at `indices`, in that order."""
        keys = {name: [column[index] for index in indices] for name, column in self.keys.items()}
        return CachedDataset(self.dataset.select(indices), keys, self.caches)

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The row at `index`: its columns, and per cached modality `(state, pooled)` or None."""
        row: dict[str, Any] = {} if self._rest is None else dict(self._rest[index])
        for modality, cache in self.caches.items():
            key = self.keys[modality][index]
            row[f"{modality}_cached"] = None if key is None else cache.get(key)
        return row


@final
class CachedCollator:
    """Rows of a `CachedDataset` in, the tensors of one batch out.

    Args:
        processor: makes the inputs of a modality that is not cached.
        modalities: those that are.
    """

    def __init__(self, processor: FusionProcessor, modalities: Sequence[str]):
        self.collate = FusionCollator(processor)
        self.modalities = tuple(modalities)
        self._processed = tuple(name for name in ("image", "text") if name not in self.modalities)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """The batch that the rows make."""
        batch: dict[str, Tensor] = {}
        raw = [{key: row[key] for key in (*self._processed, "label") if key in row} for row in rows]
        if any(name in row for row in raw for name in self._processed):
            batch |= self.collate(raw)
        elif any("label" in row for row in raw):
            batch |= FusionCollator(lambda **_: {})([{**row, "text": None} for row in raw])
        for name in self.modalities:
            batch |= _batch_of(name, [row[f"{name}_cached"] for row in rows])
        return batch


def cache_features(
    model: FusionClassifier,
    processor: FusionProcessor,
    dataset: datasets.Dataset,
    folder: str | os.PathLike[str],
    *,
    batch_size: int = 32,
) -> tuple[CachedDataset, CachedCollator]:
    """The dataset with what the model's frozen towers make of it, and the collator that turns its rows into batches.

    Args:
        model: a classifier with at least one frozen, or partially frozen, tower.
        processor: the processor of that classifier.
        dataset: rows with `image` (a path) and `text`, as `load_manifest` reads them.
        folder: where the cache lies; entries of other models and other data in it do no harm.
        batch_size: how many samples are encoded at once.

    Raises:
        ValueError: when no tower is frozen up to a block that could be stored.
        ImageError: naming the picture that cannot be read.

    Example:
        See `mmfusion.fit`, which takes `cache=` and calls this.
    """
    modalities = [
        name
        for name in model.modalities
        if name in dataset.column_names
        and model.cache_block(name) > 0
        and getattr(model, f"{name}_encoder").num_frozen_blocks
    ]
    if not modalities:
        raise ValueError(
            "model must have a frozen tower whose first blocks can be stored, got none. Freeze one with "
            "model.freeze('image'), or let the strategy act in later blocks."
        )
    caches, keys = {}, {}
    for name in modalities:
        caches[name] = TowerCache(model, processor, name, Path(folder))
        column = list(dataset[name])
        keys[name] = [_content_key(source, name) for source in column]
        sources = {
            key: source for key, source in zip(keys[name], column, strict=True) if key is not None
        }
        caches[name].add(sources, batch_size=batch_size)
    return CachedDataset(dataset, keys, caches), CachedCollator(processor, modalities)


def _content_key(source: Any, modality: str) -> str | None:
    """A digest of a file's bytes, a picture's pixels or a text; None for a missing one."""
    if source is None or (modality == "text" and not str(source).strip()):
        return None
    if modality == "text":
        return hashlib.sha256(str(source).encode()).hexdigest()
    if isinstance(source, (str, os.PathLike)) and Path(source).is_file():
        return hashlib.sha256(Path(source).read_bytes()).hexdigest()
    picture = load_image(source)
    return hashlib.sha256(f"{picture.mode}{picture.size}".encode() + picture.tobytes()).hexdigest()


def _batch_of(name: str, rows: Sequence[tuple[Tensor, Tensor | None] | None]) -> dict[str, Tensor]:
    present = torch.tensor([row is not None for row in rows])
    here = [row for row in rows if row is not None]
    batch = {f"{name}_present": present}
    if not here:
        return batch | (
            {"attention_mask": torch.zeros(len(rows), 1, dtype=torch.long)}
            if name == "text"
            else {}
        )
    empty = torch.zeros_like(here[0][0][:1] if name == "text" else here[0][0])
    states = [empty if row is None else row[0] for row in rows]
    if name == "text":
        lengths = torch.tensor([0 if row is None else len(row[0]) for row in rows])
        batch["attention_mask"] = (
            torch.arange(max(int(lengths.max()), 1)) < lengths[:, None]
        ).long()
        batch["text_state"] = pad_sequence(states, batch_first=True)
    else:
        batch[f"{name}_state"] = torch.stack(states)
    if here[0][1] is not None:
        zero = torch.zeros_like(here[0][1])
        batch[f"{name}_pooled"] = torch.stack(
            [zero if row is None or row[1] is None else row[1] for row in rows]
        )
    return batch


def _half(value: Tensor, key: str) -> np.ndarray[Any, np.dtype[np.float16]]:
    half = value.to(torch.float16).cpu()
    if not bool(half.isfinite().all()):
        raise ValueError(
            f"features must fit half precision (up to 65504), got {float(value.abs().max())!r} for content {key[:12]}. "
            "Train without the cache."
        )
    return half.numpy()


def _preprocessing(processor: FusionProcessor, modality: str) -> dict[str, Any]:
    if modality == "image":
        return {"input_spec": processor.input_spec, "fit": processor.fit}
    tokenizer = processor.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    table = (
        backend.to_str()
        if backend is not None
        else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    )
    return {
        "tokenizer": hashlib.sha256(table.encode()).hexdigest(),
        "max_length": processor.max_length,
    }


def _frozen_tensors(encoder: Any) -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers of what is frozen, in a fixed order."""
    frozen = {
        id(inner)
        for module in encoder._frozen
        for inner in (module.modules() if module is encoder.backbone else [module])
    }
    for name, module in encoder.backbone.named_modules():
        if id(module) in frozen:
            for leaf, value in (
                *module.named_parameters(recurse=False),
                *module.named_buffers(recurse=False),
            ):
                yield f"{name}.{leaf}", value
