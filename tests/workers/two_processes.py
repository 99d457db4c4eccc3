"""An evaluation and a training, whose results must not depend on the number of processes.

Usage: [torchrun --nproc_per_node 2] two_processes.py FOLDER GLOBAL_BATCH. Process 0 writes
FOLDER/weights.safetensors and metrics.json.
"""

import json
import os
import sys
from pathlib import Path

import torch

torch.set_num_threads(1)
sys.path.insert(0, str(Path(__file__).parent))
from safetensors.torch import save_file
from small_training import compose, rows_in

from mmfusion.training.arguments import training_arguments
from mmfusion.training.evaluate import evaluate
from mmfusion.training.fit import fit


def main() -> None:
    """Evaluates a new model, trains it, and evaluates it again.

    Many of the samples lack a modality.
    """
    folder, world = Path(sys.argv[1]), int(os.environ.get("WORLD_SIZE", "1"))
    rows = rows_in(folder.parent / "data", n=37, missing=0.4)
    model, processor = compose(rows, dropout=0.0)
    absent = [0, 0]
    model.image_encoder.register_forward_hook(lambda *_: absent.__setitem__(0, absent[0] + 1))
    options = {
        "disable_tqdm": True,
        "logging_strategy": "no",
        "save_strategy": "no",
        "eval_strategy": "no",
        "load_best_model_at_end": False,
    }
    if world > 1:
        options["ddp_backend"] = "gloo"
    arguments = training_arguments(
        folder / "run",
        num_train_epochs=2,
        learning_rate=1e-3,
        per_device_train_batch_size=int(sys.argv[2]) // world,
        per_device_eval_batch_size=5,
        dataloader_drop_last=True,
        **options,
    )
    before = evaluate(model, processor, rows, arguments=arguments, resamples=100)
    absent[0] = 0
    fit(model, processor, rows, arguments=arguments)
    encoded = absent[0]
    after = evaluate(model, processor, rows, arguments=arguments, resamples=100)
    if int(os.environ.get("RANK", "0")) == 0:
        folder.mkdir(exist_ok=True)
        save_file(
            {key: value.contiguous() for key, value in model.state_dict().items()},
            folder / "weights.safetensors",
        )
        result = {
            "before": before.to_dict(),
            "after": after.to_dict(),
            "samples": len(before.logits),
            "image_batches": encoded,
            "world": world,
        }
        (folder / "metrics.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
