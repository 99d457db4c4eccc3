"""The classifier in the loops of other tools: accelerate, Optuna, Lightning, datasets' streams."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback

from mmfusion import (
    FusionClassifier,
    FusionCollator,
    FusionProcessor,
    ImageEncoder,
    TextEncoder,
    evaluate,
    load_manifest,
    training_arguments,
)
from mmfusion.data.toy import draw_shapes, word_tokenizer
from mmfusion.testing import tiny_config

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
Compose = Callable[[], tuple[FusionClassifier, FusionProcessor]]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_shapes(tmp_path_factory.mktemp("shapes"), 48, size=32)


@pytest.fixture(scope="module")
def rows(manifest: Path) -> datasets.Dataset:
    return load_manifest(manifest)


@pytest.fixture(scope="module")
def compose(rows: datasets.Dataset) -> Compose:
    def composed() -> tuple[FusionClassifier, FusionProcessor]:
        torch.manual_seed(0)
        tokenizer = word_tokenizer(rows["text"])
        image = ImageEncoder(tiny_config("vit", **SMALL, image_size=32, patch_size=8))
        text = TextEncoder(tiny_config("bert", **SMALL, vocab_size=len(tokenizer)))
        names = dict(enumerate(rows.features["label"].names))
        model = FusionClassifier(image_encoder=image, text_encoder=text, id2label=names)
        return model, FusionProcessor.from_encoders(image, text, tokenizer=tokenizer)

    return composed


def loss_of(model: FusionClassifier, batch: Any) -> float:
    model.eval()
    with torch.no_grad():
        return float(model(**batch).loss)


def test_a_loop_of_accelerate(rows: datasets.Dataset, compose: Compose) -> None:
    from accelerate import Accelerator

    model, processor = compose()
    collate = FusionCollator(processor)
    whole = collate([rows[number] for number in range(len(rows))])
    before = loss_of(model, whole)
    accelerator = Accelerator(cpu=True)
    loader = DataLoader(rows, 16, shuffle=True, collate_fn=collate)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    prepared, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    prepared.train()
    for _ in range(4):
        for batch in loader:
            accelerator.backward(prepared(**batch).loss)
            optimizer.step()
            optimizer.zero_grad()
    assert loss_of(accelerator.unwrap_model(prepared), whole) < before - 0.1


def test_a_search_with_optuna(rows: datasets.Dataset, compose: Compose, tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    _, processor = compose()
    arguments = training_arguments(
        tmp_path,
        num_train_epochs=4,
        per_device_train_batch_size=8,
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = Trainer(
        model_init=lambda trial: compose()[0],
        args=arguments,
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=FusionCollator(processor),
    )
    best = trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_categorical("learning_rate", [1e-9, 2e-3])},
        backend="optuna",
        n_trials=2,
        direction="minimize",
        compute_objective=lambda metrics: metrics["eval_loss"],
        sampler=optuna.samplers.GridSampler({"learning_rate": [1e-9, 2e-3]}, seed=0),
    )
    assert best.hyperparameters == {"learning_rate": 2e-3}


# Lightning asks torch in a way that torch calls deprecated.
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_a_module_of_lightning(rows: datasets.Dataset, compose: Compose, tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self, model: FusionClassifier) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: Any, _: int) -> Any:
            assert self.model.training and self.model.image_encoder.training
            return self.model(**batch).loss

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), 3e-3)

    model, processor = compose()
    collate = FusionCollator(processor)
    whole = collate([rows[number] for number in range(len(rows))])
    before = loss_of(model, whole)
    model.train()
    loader = DataLoader(rows, 16, shuffle=True, collate_fn=collate)
    trainer = lightning.Trainer(
        max_epochs=4,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Module(model), loader)
    assert loss_of(model, whole) < before - 0.1


# datasets leaves the file of metadata open.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_folder_of_pictures_with_metadata(
    manifest: Path, rows: datasets.Dataset, compose: Compose, tmp_path: Path
) -> None:
    """`load_dataset("imagefolder")` gives pictures, texts and labels that are rows as they are."""
    import csv
    import gc
    import shutil

    with manifest.open() as file:
        table = list(csv.DictReader(file))
    with (tmp_path / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "text", "label", "group"])
        for row in table:
            shutil.copy(manifest.parent / row["image"], tmp_path)
            writer.writerow([row["image"], row["text"], row["label"], row["group"]])
    folder = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path), split="train", cache_dir=str(tmp_path / "cache")
    )
    model, processor = compose()
    arguments = training_arguments(tmp_path / "run", disable_tqdm=True)
    found = evaluate(model, processor, folder, arguments=arguments, resamples=10)
    wanted = evaluate(model, processor, rows, arguments=arguments, resamples=10)
    assert found.metrics["auroc"].estimate == pytest.approx(wanted.metrics["auroc"].estimate)
    # The file is closed here, where its warning is ignored, and not in the middle of another test.
    del folder
    gc.collect()


def test_training_on_a_stream_that_is_not_loaded(
    rows: datasets.Dataset, compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An `IterableDataset` with a shuffled buffer trains, and a stopped run resumes alike."""
    # After each pass over several files, datasets sleeps 5 seconds for threads of pyarrow. The test
    # has seven passes.
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.1)
    files = [str(tmp_path / f"{number}.parquet") for number in range(2)]
    for number, file in enumerate(files):
        rows.shard(2, number).to_parquet(file)

    def stream() -> Any:
        opened = datasets.load_dataset(
            "parquet",
            data_files=files,
            split="train",
            streaming=True,
            cache_dir=str(tmp_path / "cache"),
        )
        return opened.shuffle(seed=0, buffer_size=16)

    def train(folder: str, steps: int, resume: bool = False) -> FusionClassifier:
        model, processor = compose()
        arguments = training_arguments(
            tmp_path / folder,
            max_steps=9,
            learning_rate=3e-3,
            per_device_train_batch_size=16,
            eval_strategy="no",
            metric_for_best_model=None,
            save_strategy="steps",
            save_steps=3,
            save_total_limit=None,
            disable_tqdm=True,
            seed=0,
        )

        class Stop(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                control.should_training_stop = state.global_step >= steps

        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=stream(),
            data_collator=FusionCollator(processor),
            callbacks=[Stop()],
        )
        trainer.train(resume_from_checkpoint=resume)
        return model

    whole = train("whole", 9)
    train("stopped", 3)
    resumed = train("stopped", 9, resume=True)
    before = dict(compose()[0].named_parameters())
    moved = 0.0
    for name, value in whole.named_parameters():
        moved = max(moved, float((value - before[name]).detach().abs().max()))
        torch.testing.assert_close(dict(resumed.named_parameters())[name], value, rtol=0, atol=0)
    assert moved > 1e-3
