"""The losses of the Trainer: exact over batches of unlike numbers of known labels."""

import math

import datasets
import numpy as np
import pytest
import torch
from torch import nn

from mmfusion import (
    FusionClassifier,
    FusionProcessor,
    TextEncoder,
    fit,
    predict,
    training_arguments,
)
from mmfusion import testing as kit
from mmfusion.data.toy import word_tokenizer
from mmfusion.testing import tiny_config
from mmfusion.training.trainer import GroupedTrainer

WORDS = ["fever", "clear", "opacity", "cough", "pain", "none", "left", "right"]
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def classifier(**options):
    torch.manual_seed(0)
    tokenizer = word_tokenizer(WORDS)
    encoder = TextEncoder(tiny_config("bert", **SIZES, vocab_size=len(tokenizer)))
    return FusionClassifier(text_encoder=encoder, **options), FusionProcessor(tokenizer)


@pytest.fixture
def partly_known():
    """Returns 48 multi-label rows; the later a row, the fewer of its labels are known."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (48, 3)).astype(float)
    labels[rng.random((48, 3)) < np.linspace(0, 0.95, 48)[:, None]] = np.nan
    texts = [f"{WORDS[row % 8]} {WORDS[row // 8]}" for row in range(48)]
    return datasets.Dataset.from_dict({"text": texts, "label": labels.tolist()})


def brute_force_loss(logits, labels, class_weights, pos_weight=(1.0, 1.0, 1.0), gamma=0.0):
    """Returns the mean of the losses of all known labels, one at a time."""
    losses = []
    for row, answers in zip(logits.tolist(), labels, strict=True):
        for z, y, weight, positive in zip(row, answers, class_weights, pos_weight, strict=True):
            if not math.isnan(y):
                p = 1 / (1 + math.exp(-z if y == 1 else z))
                weight *= positive if y == 1 else 1
                losses.append(-weight * (1 - p) ** gamma * math.log(p))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("batch_size", [4, 12, 64])
@pytest.mark.parametrize("focal", [False, True])
def test_the_loss_of_a_validation_does_not_depend_on_the_batch_size(
    partly_known, tmp_path, batch_size, focal
):
    weights = [1.0, 2.0, 5.0]
    more = {"pos_weight": [4.0, 1.0, 0.5], "focal_gamma": 2.0} if focal else {}
    model, processor = classifier(
        num_labels=3, problem_type="multi_label_classification", class_weights=weights, **more
    )
    arguments = training_arguments(
        tmp_path,
        save_strategy="no",
        num_train_epochs=1,
        learning_rate=0.0,
        per_device_eval_batch_size=batch_size,
        disable_tqdm=True,
    )
    result = fit(
        model,
        processor,
        partly_known,
        partly_known,
        arguments=arguments,
        warm_start=False,
        calibrate=False,
    )
    (loss,) = (entry["eval_loss"] for entry in result.history if "eval_loss" in entry)
    logits = predict(model, processor, partly_known)
    by_hand = (more["pos_weight"], more["focal_gamma"]) if focal else ()
    expected = brute_force_loss(logits, partly_known["label"], weights, *by_hand)
    assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("batch_size", "steps"), [(4, 4), (16, 1), (2, 8)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["multi", "single"])
def test_accumulated_batches_give_the_step_of_one_batch(
    partly_known, tmp_path, batch_size, steps, kind, weighted
):
    """One step of plain gradient descent over 14 rows; their last batch is smaller."""
    options = {"num_labels": 3, "problem_type": f"{kind}_label_classification"}
    if weighted:
        options |= {"class_weights": [1.0, 2.0, 5.0], "focal_gamma": 1.5}
        options |= {"pos_weight": [4.0, 1.0, 0.5]} if kind == "multi" else {}
    rows = partly_known.select(range(10, 24))
    if kind == "single":
        numbers = [row % 3 for row in range(14)]
        rows = rows.remove_columns("label").add_column("label", numbers)
    model, processor = classifier(**options)
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    arguments = training_arguments(
        tmp_path,
        save_strategy="no",
        eval_strategy="no",
        optim="sgd",
        max_grad_norm=0.0,
        weight_decay=0.0,
        lr_scheduler_type="constant",
        warmup_steps=0,
        learning_rate=1.0,
        num_train_epochs=1,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=steps,
        disable_tqdm=True,
    )
    fit(model, processor, rows, arguments=arguments, warm_start=False, calibrate=False)
    other, _ = classifier(**options)
    inputs = processor(text=list(rows["text"]))
    labels = torch.tensor(list(rows["label"]))
    other(**inputs, labels=labels.float() if kind == "multi" else labels).loss.backward()
    for name, parameter in model.named_parameters():
        gradient = dict(other.named_parameters())[name].grad
        torch.testing.assert_close(start[name] - parameter, gradient, rtol=1e-4, atol=1e-6)


def test_smoothing_keeps_class_weights_and_the_losses_of_single_modalities(
    rows, compose, quiet, tmp_path
):
    """The Trainer's own smoothing would leave both out."""
    options = {"class_weights": [1.0, 10.0, 100.0, 3.0], "auxiliary_loss_weight": 0.5}

    def without_dropout():
        model, processor = compose(rows, **options)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        return model, processor

    seen = []
    for smoothing in (0.0, 0.1):
        model, processor = without_dropout()
        arguments = quiet(
            tmp_path,
            save_strategy="no",
            eval_strategy="no",
            label_smoothing_factor=smoothing,
            learning_rate=0.0,
            per_device_train_batch_size=len(rows),
        )
        result = fit(model, processor, rows, arguments=arguments, warm_start=False)
        assert arguments.label_smoothing_factor == smoothing
        assert model.config.label_smoothing == smoothing
        seen.append(result.history[0]["loss"])
    model, processor = without_dropout()
    model.train()
    inputs = processor(images=list(rows["image"]), text=list(rows["text"]))
    labels = torch.tensor(list(rows["label"]))
    logits = {}
    model.image_head.register_forward_hook(lambda *args: logits.update(image=args[-1]))
    model.text_head.register_forward_hook(lambda *args: logits.update(text=args[-1]))
    logits["fused"] = model(**inputs, labels=labels).logits
    present = {name: inputs[f"{name}_present"] for name in ("image", "text")}
    expected = []
    for smoothing in (0.0, 0.1):
        loss = torch.nn.CrossEntropyLoss(
            torch.tensor(options["class_weights"]), reduction="none", label_smoothing=smoothing
        )
        whole = loss(logits["fused"], labels).mean()
        for name, here in present.items():
            whole = whole + 0.5 * loss(logits[name][here], labels[here]).mean()
        expected.append(whole.item())
    assert seen == pytest.approx(expected, rel=1e-4)


def test_pretrained_and_new_parameters_have_their_own_rates(tmp_path) -> None:
    """Every trainable parameter is in one group; biases and norms have no weight decay."""
    model = kit.tiny_classifier("concat").freeze("image")
    model.text_encoder.add_lora(r=2)
    model.text_encoder.backbone.embeddings.requires_grad_(True)
    arguments = training_arguments(
        tmp_path,
        learning_rate=1e-2,
        pretrained_learning_rate=1e-4,
        weight_decay=0.1,
        eval_strategy="no",
    )
    optimizer = GroupedTrainer(model=model, args=arguments).create_optimizer()
    found = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(found) == len(names)
    norms = {
        f"{name}.{leaf}"
        for name, module in model.named_modules()
        if isinstance(module, nn.LayerNorm)
        for leaf, _ in module.named_parameters(recurse=False)
    }
    kinds = set()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        group = found[id(parameter)]
        is_pretrained = name.startswith("text_encoder.") and "lora_" not in name
        kinds.add(is_pretrained)
        assert group["lr"] == (1e-4 if is_pretrained else 1e-2), name
        has_decay = not (name.endswith("bias") or name in norms)
        assert group["weight_decay"] == (0.1 if has_decay else 0.0), name
    assert kinds == {True, False}


def test_every_process_weighs_by_all_known_labels(tmp_path, monkeypatch) -> None:
    """The gradients of the processes are averaged: the sum over all known labels must come out."""
    counts = {0: [1, 5], 1: [2, 0]}
    model, _ = classifier(num_labels=3, problem_type="multi_label_classification")
    arguments = training_arguments(tmp_path, eval_strategy="no", save_strategy="no")
    monkeypatch.setattr(type(arguments), "world_size", 2)
    trainer = GroupedTrainer(model=model, args=arguments)
    mean_of_all = sum(map(sum, counts.values())) / 4
    total = 0.0
    for own in counts.values():
        means: list[float] = []

        def reduce(mean, reduction, means=means):
            means.append(float(mean))
            return torch.tensor(mean_of_all)

        monkeypatch.setattr(trainer.accelerator, "reduce", reduce)
        labels = torch.full((2, 2, 3), math.nan)
        for batch, known in enumerate(own):
            labels[batch].view(-1)[:known] = 1.0
        batches = iter([{"labels": one} for one in labels])
        trainer.get_batch_samples(batches, 2, torch.device("cpu"))
        assert means == [sum(own) / 2]
        weights = [float(one) for one in trainer._weights]
        assert weights == [known / mean_of_all for known in own]
        total += sum(weight / 2 for weight in weights) / 2
    # With losses that are all 1, the averaged loss is 1, however the labels are spread.
    assert total == pytest.approx(1.0)
