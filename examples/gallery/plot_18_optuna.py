"""
Search the options of a training with Optuna
============================================

The Trainer of transformers searches with ``hyperparameter_search``. Each trial begins with a new
classifier, and is judged on the validation part. The test part stays aside.
"""

# %%
# A function makes the classifier of a trial.

import tempfile

import matplotlib.pyplot as plt
import optuna
import torch
from transformers import PrinterCallback, Trainer

from mmfusion import (
    FusionClassifier,
    FusionProcessor,
    cache_features,
    load_manifest,
    small_encoders,
    split,
    training_arguments,
)
from mmfusion.data.toy import draw_shapes

optuna.logging.set_verbosity(optuna.logging.ERROR)
parts = split(load_manifest(draw_shapes(tempfile.mkdtemp(), 160)))
image, text = small_encoders()
names = dict(enumerate(parts["train"].features["label"].names))
processor = FusionProcessor.from_encoders(image, text)


def new_classifier(trial: optuna.Trial | None) -> FusionClassifier:
    """Returns the classifier of a trial; the encoders are shared, because they are frozen."""
    torch.manual_seed(0)
    return FusionClassifier(image_encoder=image, text_encoder=text, id2label=names)


def space(trial: optuna.Trial) -> dict[str, float]:
    """Returns the options of a trial."""
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)}


# %%
# The encoders are frozen, so their outputs are computed once.

folder = tempfile.mkdtemp()
model = new_classifier(None)
train, collate = cache_features(model, processor, parts["train"], folder)
validation, _ = cache_features(model, processor, parts["validation"], folder)
arguments = training_arguments(
    folder, model, num_train_epochs=3, save_strategy="no", disable_tqdm=True
)
trainer = Trainer(
    model_init=new_classifier,
    args=arguments,
    train_dataset=train,
    eval_dataset=validation,
    data_collator=collate,
)
trainer.remove_callback(PrinterCallback)
losses: dict[float, float] = {}


def judged(metrics: dict[str, float]) -> float:
    """Returns the loss of the validation part, which is to be small."""
    losses[trainer.args.learning_rate] = metrics["eval_loss"]
    return metrics["eval_loss"]


best = trainer.hyperparameter_search(
    space,
    backend="optuna",
    n_trials=8,
    direction="minimize",
    compute_objective=judged,
    sampler=optuna.samplers.TPESampler(seed=0),
)
print(best.hyperparameters)

# %%

figure, axis = plt.subplots(figsize=(6, 2.8))
axis.scatter(list(losses), list(losses.values()), color="#2062be")
axis.set_xscale("log")
axis.set_xlabel("learning rate")
axis.set_ylabel("loss, validation part")
axis.set_ylim(bottom=0)
figure.tight_layout()
