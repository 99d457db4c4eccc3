"""`import mmfusion` is enough for transformers' Auto classes to know the library's classes."""

import subprocess
import sys
from pathlib import Path

import pytest

from mmfusion import FusionProcessor
from mmfusion import testing as kit
from mmfusion.data.toy import word_tokenizer

CODE = """
import sys
{imports}
heavy = "mmfusion.model.modeling" in sys.modules
{uses}
wrapped = [
    reader.__name__
    for reader in (transformers.AutoConfig, transformers.AutoProcessor)
    if "register" in reader.from_pretrained.__func__.__code__.co_names
]
watching = [finder for finder in sys.meta_path if type(finder).__name__ == "_Watch"]
print(heavy, *(type(one).__name__ for one in loaded), wrapped, watching)
"""
EVERY = """
loaded = [
    getattr(transformers, name).from_pretrained(sys.argv[1])
    for name in ("AutoProcessor", "AutoModel", "AutoConfig", "AutoProcessor")
]
"""


@pytest.mark.parametrize(
    "imports",
    [
        "import mmfusion, transformers",
        "import transformers, mmfusion",
        "from transformers import AutoProcessor, AutoModel; import mmfusion, transformers",
        "from transformers import AutoModel; import mmfusion, transformers",
    ],
)
def test_a_saved_model_is_known_whatever_is_imported_first(imports: str, tmp_path: Path) -> None:
    model = kit.tiny_classifier()
    model.save_pretrained(tmp_path)
    FusionProcessor.from_encoders(
        model.image_encoder, model.text_encoder, tokenizer=word_tokenizer(["clear lungs"])
    ).save_pretrained(tmp_path)
    code = CODE.format(imports=imports, uses=EVERY)
    command = [sys.executable, "-c", code, str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    names = "FusionProcessor FusionClassifier FusionConfig FusionProcessor"
    assert answer.stdout == f"False {names} [] []\n"
