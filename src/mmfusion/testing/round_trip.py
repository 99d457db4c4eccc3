"""The law of the round trip: save models, load them in a new process, and compare the logits."""

import copy
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ..model.modeling import FusionClassifier
from .batches import Batch
from .compare import agree, logits_of
from .tiny import register_tiny_backbones


def check_round_trip_law(*cases: tuple[FusionClassifier, Batch], setup: str = "") -> None:
    """Checks that saved models, loaded in a new process without network, give equal logits.

    The logits must be equal to the bit, and the saved folder must hold no pickle.

    Args:
        *cases: pairs of a model and a batch for it.
        setup: Python source that the new process runs first, for example `"import my_plugins"` to
            register plug-ins.
    """
    source = (
        f"{setup}\nfrom mmfusion.testing.round_trip import _reload\n"
        "import sys\n_reload(sys.argv[1])\n"
    )
    # All models share one new process, because its imports take longer than the models do.
    with tempfile.TemporaryDirectory() as name:
        # Both processes compute on the CPU, because a GPU rounds otherwise.
        on_cpu = [
            (copy.deepcopy(model).cpu(), {key: value.cpu() for key, value in batch.items()})
            for model, batch in cases
        ]
        for number, (model, batch) in enumerate(on_cpu):
            folder = Path(name) / str(number)
            model.save_pretrained(folder / "model")
            _check_no_pickle(folder)
            save_file(batch, folder / "batch.safetensors")
        # The new process must use the same number of threads. Another number splits sums in another
        # way, which changes their rounding.
        environment = os.environ | {
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": str(torch.get_num_threads()),
        }
        done = subprocess.run(
            [sys.executable, "-c", source, name],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (
            f"round trip law: the new process failed:\n{done.stderr[-4000:]}"
        )
        for number, (model, batch) in enumerate(on_cpu):
            again = load_file(Path(name) / str(number) / "logits.safetensors")["logits"]
            what = f"round trip law (case {number}: {model.config.fusion}, {model.config.mapper})"
            # The tolerance is 0: saving must not change a single bit.
            agree(what, logits_of(model, batch), again, 0.0)


def _check_no_pickle(folder: Path) -> None:
    """Checks that a folder holds only files of types that cannot contain pickles."""
    files = [
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".json", ".safetensors", ".py", ".txt", ".md")
    ]
    assert not files, f"round trip law: {[path.name for path in files]} beside JSON and safetensors"


def _reload(folder: str) -> None:
    """Loads each saved model and writes its logits; the new process of the round trip runs this."""
    # Models on the custom tiny backbones cannot be loaded before these are registered.
    register_tiny_backbones()
    for case in Path(folder).iterdir():
        model = FusionClassifier.from_pretrained(case / "model")
        save_file(
            {"logits": logits_of(model, load_file(case / "batch.safetensors"))},
            case / "logits.safetensors",
        )
