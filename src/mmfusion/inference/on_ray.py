"""Predictions on many machines: actors of Ray Data hold the model."""

import logging
from collections.abc import Generator
from typing import Any, final

import datasets
import numpy as np

from .stream import Prediction, predict_stream

ACTORS = 2


def predict_on_ray(
    model: str, rows: datasets.Dataset, *, batch_size: int = 32, workers: int = 0
) -> Generator[Prediction, None, None]:
    """Yields what `predict_stream` yields with `on_error="keep"`, computed by actors of Ray.

    Each actor loads the model once. If an actor dies, Ray starts another one, which answers its
    batches again; a row is yielded once. Ray's own settings decide where the actors run: without a
    cluster they run on this machine.

    Args:
        model: a folder that every machine can read, or a hub name.
        rows: the samples. Paths of pictures must be readable on every machine.
        batch_size: the number of samples per forward pass.
        workers: the number of actors; 0 means 2.

    Raises:
        ImportError: if ray is not installed.
        RuntimeError: if Ray lost rows.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            'ray must be installed, got no such package. Run: pip install "mmfusion[ray]"'
        ) from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    kept = rows.select_columns([name for name in ("image", "text") if name in rows.column_names])
    numbered = kept.add_column("row", list(range(len(kept))))
    table, size = numbered.data.table.combine_chunks(), 8 * batch_size
    # Tables that are cut here need no task of Ray, which would wait for a core that an actor holds.
    slices = [table.slice(start, size) for start in range(0, len(kept), size)]
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    answers = ray.data.from_arrow(slices).map_batches(
        _Actor,
        fn_constructor_kwargs={"model": model, "batch_size": batch_size},
        batch_size=size,
        compute=ray.data.ActorPoolStrategy(size=workers or ACTORS),
        num_gpus=gpus,
    )
    following = 0
    for row in answers.iter_rows():
        if row["row"] != following:
            raise RuntimeError(f"Ray must give row {following}, got row {row['row']}.")
        following += 1
        yield Prediction(
            np.asarray(row["logits"], dtype=np.float32),
            np.asarray(row["probabilities"], dtype=np.float32),
            tuple(name for name in str(row["missing"]).split(" ") if name),
            row["error"] or None,
        )
    if following != len(kept):
        raise RuntimeError(f"Ray must give {len(kept)} rows, got {following}.")


@final
class _Actor:
    """The process that holds the model and answers batches."""

    def __init__(self, model: str, batch_size: int):
        import torch

        from ..model.modeling import FusionClassifier
        from ..model.processing import FusionProcessor

        # Ray gives each actor its share of the cores.
        torch.set_num_threads(1)
        self.model = FusionClassifier.from_pretrained(model).eval()
        if torch.cuda.is_available():
            torch.nn.Module.to(self.model, "cuda")
        self.processor = FusionProcessor.from_pretrained(model)
        self.batch_size = batch_size

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        count = len(batch["row"])
        names = [name for name in ("image", "text") if name in batch]
        samples: list[dict[str, Any]] = [
            {name: _plain(batch[name][place]) for name in names} for place in range(count)
        ]
        found = list(
            predict_stream(
                self.model,
                self.processor,
                samples,
                batch_size=self.batch_size,
                on_error="keep",
                progress=False,
            )
        )
        return {
            "row": batch["row"],
            "logits": np.stack([one.logits for one in found]),
            "probabilities": np.stack([one.probabilities for one in found]),
            "missing": np.array([" ".join(one.missing) for one in found]),
            "error": np.array([one.error or "" for one in found]),
        }


def _plain(value: Any) -> Any:
    """Returns a cell as `predict_stream` takes it: lists of views come as arrays."""
    return value.tolist() if isinstance(value, np.ndarray) else value
