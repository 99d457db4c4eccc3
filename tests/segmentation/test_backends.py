"""The two backends: each loads the files of the other, and both give the same results.

All other tests of this folder are run on tensorflow, too.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from mmfusion import UNetSegmenter

HERE = Path(__file__).parent
OTHER = "tensorflow" if keras.backend.backend() == "torch" else "torch"


def run(*command, backend=OTHER):
    environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True
    )


@pytest.mark.xdist_group("processes")
@pytest.mark.parametrize(
    "options", [{}, {"patch_size": 2, "num_classes": 3, "normalization": "group"}]
)
def test_both_backends_answer_alike(options, tmp_path):
    generator = np.random.default_rng(0)
    model = UNetSegmenter(8, 3, **options)
    for weight in model.weights:
        # The statistics of the normalisations change, too. Their starting values would hide faults.
        weight.assign(
            np.abs(generator.normal(0, 0.3, weight.shape))
            + (0.5 if weight.path.endswith("variance") else -0.2)
        )
    inputs = generator.random((2, 64, 48, 1), dtype=np.float32)
    np.save(tmp_path / "inputs.npy", inputs)
    (tmp_path / "config.json").write_text(json.dumps(model.get_config()))
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    here = keras.ops.convert_to_numpy(model(inputs))
    done = run(
        HERE.parent / "workers" / "unet_answers.py", tmp_path, "model.keras", "model.weights.h5"
    )
    assert done.returncode == 0, done.stderr
    for name in ("model.keras", "model.weights.h5"):
        assert here.std() > 0.01
        there = np.load(tmp_path / f"{name}.{OTHER}.npy")
        assert np.abs(there - here).max() <= 1e-4
        np.testing.assert_array_equal(there > 0.5, here > 0.5)


@pytest.mark.xdist_group("processes")
@pytest.mark.skipif(OTHER == "torch", reason="this is the run on tensorflow")
def test_all_of_this_holds_on_tensorflow():
    done = run(
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        HERE,
        # These tests start processes with both backends, whichever they run on.
        f"--ignore={__file__}",
        "-n",
        "0",
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


def test_the_backend_is_left_to_the_user():
    said = "import mmfusion.segmentation, keras; print(keras.backend.backend())"
    done = run("-c", said, backend="torch")
    assert done.stdout.strip() == "torch", done.stderr


def test_after_tensorflow_it_still_loads():
    done = run(
        "-c",
        "import keras, tensorflow; from mmfusion import LungSegmenter; print('fine')",
        backend="tensorflow",
    )
    assert done.stdout.strip() == "fine", done.stderr


def test_a_backend_that_is_not_there_is_explained(tmp_path):
    (tmp_path / "tensorflow.py").write_text(
        "raise ImportError('No module named tensorflow', name='tensorflow')"
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from mmfusion import UNetSegmenter"
    done = run("-c", code, backend="tensorflow")
    assert "Set KERAS_BACKEND=torch, or install it." in done.stderr


def test_without_tensorflow_and_without_a_choice_it_runs_on_torch():
    code = (
        "import os, sys; os.environ.pop('KERAS_BACKEND', None); sys.modules['tensorflow'] = None;"
    )
    code += "from mmfusion import LungSegmenter; import keras; print(keras.backend.backend())"
    done = run("-c", code, backend="tensorflow")
    assert done.stdout.strip() == "torch", done.stderr


def test_without_keras_the_rest_is_listed():
    code = "import sys; sys.modules['keras'] = None; import inspect, mmfusion, pydoc;"
    code += "from mmfusion import *; pydoc.render_doc(mmfusion); FusionClassifier;"
    code += "print(sorted(set(mmfusion._HOME) - set(dict(inspect.getmembers(mmfusion)))))"
    done = run("-c", code, backend="torch")
    listed = "['LungMask', 'LungSegmenter', 'NotAChestXrayWarning', 'UNetSegmenter']"
    assert done.stdout.strip() == listed, done.stderr


def test_without_keras_the_extra_is_named():
    code = "import sys; sys.modules['keras'] = None; from mmfusion import UNetSegmenter"
    done = run("-c", code, backend="torch")
    assert 'pip install "mmfusion[keras]"' in done.stderr
