"""The files and the tokenizer of an open_clip model, as transformers' own tokenizers."""

import importlib
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Regex, normalizers
from transformers import CLIPTokenizer, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from .configuration import EncoderConfig
from .processing_inputs import load_tokenizer

SCHEMES = ("hf-hub:", "local-dir:")
"""How the names of open_clip models begin."""


def open_clip_module(name: str = "open_clip") -> Any:
    """Returns a module of open_clip.

    Args:
        name: of the module.

    Raises:
        ImportError: if open_clip is not installed. The message says how to install it.
    """
    # The module's name is a variable. transformers does not require a package that is imported like
    # this. It would require one that an import statement at the top of this file names.
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f'an open_clip encoder needs open_clip: {error}. Run: pip install "mmfusion[open_clip]"'
        ) from error


def found_file(name: str, file: str) -> str | None:
    """Returns where a file of a hub repository or a folder lies on this machine, or None.

    Args:
        name: the repository or folder, with or without its scheme.
        file: name of the file.
    """
    path: str | None = cached_file(
        without_scheme(name),
        file,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return path


def without_scheme(name: str) -> str:
    """Returns a name without `hf-hub:` or `local-dir:`.

    Args:
        name: the name.
    """
    return next((name.removeprefix(s) for s in SCHEMES if name.startswith(s)), name)


def tokenizer_of(config: EncoderConfig) -> PreTrainedTokenizerBase:
    """Returns the tokenizer that was published with a text encoder.

    Args:
        config: of the encoder.

    Raises:
        ValueError: if there is none.
    """
    if config.source == "open_clip":
        return open_clip_tokenizer(config.name, (config.options or {})["model_cfg"]["text_cfg"])
    return load_tokenizer(config.name)


def open_clip_tokenizer(name: str, text_cfg: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """Returns the tokenizer of an open_clip model, with its cleaning of texts.

    It gives the ids of `open_clip.get_tokenizer`. One step is left out: open_clip also repairs
    wrongly decoded characters and HTML entities (ftfy.fix_text, html.unescape).

    Args:
        name: `hf-hub:owner/model`, a folder, or one of open_clip's own configs.
        text_cfg: the entry of the model's config.

    Raises:
        ImportError: if open_clip is not installed.
        ValueError: if there is no tokenizer, or if it changes token ids afterwards.
    """
    extra = dict(text_cfg.get("tokenizer_kwargs") or {})
    clean = extra.pop("clean", "whitespace")
    unknown = sorted(extra) + ["tokenizer_mode"] * bool(text_cfg.get("tokenizer_mode"))
    if unknown or clean not in _CLEANING:
        raise ValueError(
            f"tokenizer must be given for {name!r}, whose own one has {unknown or clean!r}, which "
            "transformers' tokenizers do not have. Pass tokenizer=..."
        )
    source = text_cfg.get("hf_tokenizer_name")
    if source is None:
        return _clip_tokenizer(int(text_cfg.get("context_length", 77)))
    # A folder holds its own tokenizer (open_clip.get_tokenizer).
    folder = without_scheme(name)
    tokenizer = load_tokenizer(folder if Path(folder).is_dir() else source)
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(
            f"tokenizer must be given for {name!r}, whose own one is not a fast tokenizer. Pass "
            "tokenizer=..."
        )
    before = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = normalizers.Sequence([*_CLEANING[clean], *before])
    return tokenizer


_SPACES = (normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip())
_CLEANING = {
    "whitespace": _SPACES,
    "lower": (*_SPACES, normalizers.Lowercase()),
    "canonicalize": (
        normalizers.Replace("_", " "),
        normalizers.Replace(Regex("[" + "".join(f"\\{c}" for c in string.punctuation) + "]"), ""),
        normalizers.Lowercase(),
        *_SPACES,
    ),
}
"""The cleaning functions of open_clip -> the same as normalizers."""


def _clip_tokenizer(context_length: int) -> PreTrainedTokenizerBase:
    """Returns the tokenizer of OpenAI's CLIP, from the vocabulary that open_clip ships."""
    simple = open_clip_module("open_clip.tokenizer").SimpleTokenizer()
    start, end = (simple.decoder[i] for i in (simple.sot_token_id, simple.eot_token_id))
    return CLIPTokenizer(
        vocab=dict(simple.encoder),
        merges=list(simple.bpe_ranks),
        bos_token=start,
        eos_token=end,
        unk_token=end,
        pad_token=end,
        model_max_length=context_length,
    )
