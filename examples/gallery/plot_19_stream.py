"""
Train on a stream that does not fit into memory
===============================================

A table of many gigabytes need not be loaded: datasets reads its parquet files row by row, and
shuffles the rows in a buffer. The Trainer takes such a stream.
"""

# %%
# Three parquet files take the place of a large table.

import tempfile

import datasets
import matplotlib.pyplot as plt
import torch
from transformers import PrinterCallback, Trainer

from mmfusion import (
    FusionClassifier,
    FusionCollator,
    FusionProcessor,
    evaluate,
    load_manifest,
    small_encoders,
    split,
    training_arguments,
)
from mmfusion.data.toy import draw_shapes

datasets.disable_progress_bars()
folder = tempfile.mkdtemp()
parts = split(load_manifest(draw_shapes(folder, 160)))
files = [f"{folder}/{number}.parquet" for number in range(3)]
for number, file in enumerate(files):
    parts["train"].shard(3, number).to_parquet(file)
stream = datasets.load_dataset(
    "parquet", data_files=files, split="train", streaming=True, cache_dir=f"{folder}/cache"
).shuffle(seed=0, buffer_size=50)

# %%
# A stream has no length, so the steps are counted instead of the epochs.

torch.manual_seed(0)
image, text = small_encoders()
names = dict(enumerate(parts["train"].features["label"].names))
model = FusionClassifier(image_encoder=image, text_encoder=text, id2label=names)
processor = FusionProcessor.from_encoders(image, text)
arguments = training_arguments(
    f"{folder}/run",
    max_steps=20,
    per_device_train_batch_size=16,
    learning_rate=2e-3,
    logging_strategy="steps",
    logging_steps=1,
    save_strategy="no",
    eval_strategy="no",
    disable_tqdm=True,
)
trainer = Trainer(model, arguments, train_dataset=stream, data_collator=FusionCollator(processor))
trainer.remove_callback(PrinterCallback)
trainer.train()
found = evaluate(model, processor, parts["test"], arguments=arguments)
print(found.metrics["accuracy"])

# %%

losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
figure, axis = plt.subplots(figsize=(6, 2.8))
axis.plot(range(1, len(losses) + 1), losses, color="#2062be")
axis.set_xlabel("step")
axis.set_ylabel("loss")
axis.set_ylim(bottom=0)
figure.tight_layout()
