"""A checkpoint is continued by the training that made it, and by no other one."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from mmfusion import fit
from mmfusion.training.binding import BINDING_FILE
from mmfusion.training.digests import rows_digest
from mmfusion.training.resume import checkpoints_in


def killed(folder: Path) -> None:
    """Leaves the folder as a training that was killed after its first epoch."""
    for path in sorted(checkpoints_in(folder).items())[1:]:
        shutil.rmtree(path[1])


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in model.parameters()])


@pytest.fixture
def train(rows, compose, quiet):
    """Returns a function that trains a small model and returns it with the result."""

    def trained(folder, part=slice(0, 24), *, seed=1, bind=None, **options):
        model, processor = compose(rows)
        if bind is not None:
            bind(model)
        chosen = rows.select(range(len(rows))[part])
        arguments = quiet(
            folder,
            num_train_epochs=options.pop("epochs", 2),
            seed=seed,
            **options.pop("arguments", {}),
        )
        result = fit(
            model, processor, chosen, rows.select(range(24, 40)), arguments=arguments, **options
        )
        return model, result

    return trained


def test_the_same_training_goes_on(train, tmp_path):
    whole, _ = train(tmp_path / "whole")
    train(tmp_path / "cut")
    killed(tmp_path / "cut")
    resumed, result = train(tmp_path / "cut")
    assert torch.equal(weights(whole), weights(resumed))
    # Only the second epoch ran again.
    assert result.epochs == 2


def test_arguments_that_change_nothing_do_not_matter(train, tmp_path):
    train(tmp_path)
    killed(tmp_path)
    train(tmp_path, arguments={"per_device_eval_batch_size": 3, "logging_strategy": "no"})


def other_dropout(model):
    model.config.modality_dropout = 0.5


def other_weights(model):
    with torch.no_grad():
        next(model.text_encoder.parameters()).add_(1.0)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"part": slice(8, 32)}, r"data.train was '24 rows .* and is '24 rows"),
        ({"arguments": {"learning_rate": 2e-3}}, r"arguments.learning_rate was 0.001 and is 0.002"),
        ({"seed": 2}, "arguments.seed was 1 and is 2"),
        ({"epochs": 3}, "arguments.num_train_epochs was 2 and is 3"),
        ({"bind": other_dropout}, "model.modality_dropout was 0.0 and is 0.5"),
        ({"bind": other_weights}, "encoder weights was"),
        ({"warm_start": False}, "options.warm_start was True and is False"),
    ],
)
def test_another_training_is_refused(train, tmp_path, options, told):
    """Before, a second fold was handed the weights of the first, which had seen its test rows."""
    train(tmp_path)
    with pytest.raises(ValueError, match=f"{told}.*Choose another folder, or pass overwrite=True"):
        train(tmp_path, **options)


def test_another_training_may_overwrite(train, tmp_path):
    train(tmp_path / "one")
    expected, _ = train(tmp_path / "new", slice(8, 32))
    model, result = train(tmp_path / "one", slice(8, 32), overwrite=True)
    assert torch.equal(weights(model), weights(expected))
    assert result.epochs == 2


def test_checkpoints_of_unknown_origin_are_refused(train, tmp_path):
    train(tmp_path)
    file = tmp_path / BINDING_FILE
    file.write_text(file.read_text()[:50])
    with pytest.raises(ValueError, match=r"training.json.* is absent or damaged"):
        train(tmp_path)
    file.unlink()
    with pytest.raises(ValueError, match=r"training.json.* is absent or damaged"):
        train(tmp_path)


def test_labels_count_by_their_classes(rows):
    """Equal numbers of other classes are other data."""
    names = rows.features["label"].names
    renamed = rows.rename_column("label", "other").add_column(
        "label", list(rows["label"]), feature=type(rows.features["label"])(names=names[::-1])
    )
    assert rows_digest(rows) != rows_digest(renamed)


def test_a_moved_folder_of_pictures_is_the_same_data(rows, tmp_path):
    def moved(row):
        return {"image": shutil.copy(row["image"], tmp_path) if row["image"] else None}

    assert rows_digest(rows) == rows_digest(rows.map(moved))
    picture = next(Path(path) for path in rows["image"] if path)
    target = tmp_path / picture.name
    target.write_bytes(target.read_bytes() + b"more")
    assert rows_digest(rows) != rows_digest(
        rows.map(
            lambda row: {"image": str(tmp_path / Path(row["image"]).name) if row["image"] else None}
        )
    )


def test_the_file_is_json_without_paths_of_pictures(train, rows, tmp_path):
    train(tmp_path)
    text = (tmp_path / BINDING_FILE).read_text()
    assert json.loads(text)["arguments"]["learning_rate"] == 1e-3
    assert not any(path in text for path in rows["image"] if path)
