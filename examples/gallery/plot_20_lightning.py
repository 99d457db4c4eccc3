"""
In a module of Lightning
========================

A ``LightningModule`` holds the classifier. Its training step returns the loss of the output.
"""

# %%

import tempfile

import lightning
import matplotlib.pyplot as plt
import torch
from torch.utils.data import DataLoader

from mmfusion import (
    FusionClassifier,
    FusionCollator,
    FusionProcessor,
    load_manifest,
    small_encoders,
    split,
)
from mmfusion.data.toy import draw_shapes


class Module(lightning.LightningModule):
    """The classifier, its optimizer, and what is logged."""

    def __init__(self, model: FusionClassifier) -> None:
        super().__init__()
        self.model = model
        self.losses: list[float] = []

    def training_step(self, batch: dict, _: int) -> torch.Tensor:
        """Returns the loss of a batch."""
        loss = self.model(**batch).loss
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Returns the optimizer of what is not frozen."""
        trained = [one for one in self.parameters() if one.requires_grad]
        return torch.optim.AdamW(trained, lr=2e-3)


# %%

folder = tempfile.mkdtemp()
parts = split(load_manifest(draw_shapes(folder, 120)))
torch.manual_seed(0)
image, text = small_encoders()
names = dict(enumerate(parts["train"].features["label"].names))
model = FusionClassifier(image_encoder=image, text_encoder=text, id2label=names)
processor = FusionProcessor.from_encoders(image, text)
loader = DataLoader(parts["train"], 16, shuffle=True, collate_fn=FusionCollator(processor))
module = Module(model.train())
trainer = lightning.Trainer(
    max_epochs=3,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    default_root_dir=folder,
)
trainer.fit(module, loader)

# %%

figure, axis = plt.subplots(figsize=(6, 2.8))
axis.plot(module.losses, color="#2062be")
axis.set_xlabel("step")
axis.set_ylabel("loss")
axis.set_ylim(bottom=0)
figure.tight_layout()
