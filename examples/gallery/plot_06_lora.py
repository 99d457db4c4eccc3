"""
LoRA: small changes to a frozen encoder
=======================================

Low-rank adapters train beside the frozen weights of an encoder. They are a small part of its
parameters.
"""

# %%
# ``add_lora`` puts adapters into an encoder. Here the text encoder gets some, and the encoder of
# pictures stays frozen.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

from mmfusion import (
    FusionClassifier,
    FusionProcessor,
    fit,
    load_manifest,
    small_encoders,
    split,
    training_arguments,
)
from mmfusion.data.toy import draw_shapes
from mmfusion.training.small_encoders import small_text_encoder

folder = tempfile.mkdtemp()
cache = Path(tempfile.gettempdir()) / "mmfusion-gallery"  # shared by the scripts of the gallery
rows = load_manifest(draw_shapes(folder, 80))
parts = split(rows)
image, _ = small_encoders()
text = small_text_encoder().add_lora(r=4)
names = dict(enumerate(rows.features["label"].names))
model = FusionClassifier(image_encoder=image, text_encoder=text, fusion="concat", id2label=names)
processor = FusionProcessor.from_encoders(image, text)
arguments = training_arguments(f"{folder}/run", model, num_train_epochs=3, disable_tqdm=True)
result = fit(
    model,
    processor,
    parts["train"],
    parts["validation"],
    arguments=arguments,
    cache=cache,
    warm_start=False,
)

# %%
# What trains, and how the loss on held-out samples falls.

sizes = {"all": sum(p.numel() for p in model.parameters()), "trained": result.trained_parameters}
losses = [entry["eval_loss"] for entry in result.history if "eval_loss" in entry]
figure, axes = plt.subplots(1, 2, figsize=(8, 3))
bars = axes[0].barh(list(sizes), list(sizes.values()), color=["#9aa7b6", "#2062be"])
axes[0].bar_label(bars, [f"{size / 1e6:.2f} M" for size in sizes.values()], padding=3)
axes[0].set_xscale("log")
axes[0].set_xlim(1e4, 2e8)
axes[0].set_title("parameters")
axes[1].plot(range(1, len(losses) + 1), losses, marker="o", color="#2062be")
axes[1].set_xticks(range(1, len(losses) + 1))
axes[1].set_xlabel("epoch")
axes[1].set_title("validation loss")
figure.tight_layout()
