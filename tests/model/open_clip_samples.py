"""Small open_clip models of every kind, and folders that hold one as a hub would."""

import copy
import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import BertConfig, PreTrainedTokenizerFast

from mmfusion import testing as kit

EMBED = 20
VIT = {"image_size": 32, "patch_size": 8, "width": 24, "head_width": 12, "layers": 2}
TEXT = {"context_length": 12, "vocab_size": 64, "width": 24, "heads": 2, "layers": 2}
FULL = {"no_causal_mask": True, "pool_type": "last", "proj_bias": True, "hf_tokenizer_name": "x"}
TIMM = {"image_size": 160, "timm_model_name": "test_vit"}
HF = {"hf_model_name": "bert", "context_length": 12, "hf_tokenizer_name": "x"}
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "clip": (VIT, TEXT),
    "clip pooled by mean": (VIT | {"pool_type": "avg", "final_ln_after_pool": True}, TEXT),
    "eos": (VIT, TEXT | {"pool_type": "eos", "eos_id": 61}),
    "siglip": (TIMM | {"timm_pool": "map", "timm_proj": "none"}, TEXT | FULL),
    "clipa": (VIT, TEXT | {"pool_type": "last", "hf_tokenizer_name": "x"}),
    "coca": (
        VIT | {"attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": 2},
        TEXT | {"embed_cls": True},
    ),
    "biomedclip": (
        TIMM | {"timm_pool": "", "timm_proj": "linear"},
        HF | {"hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler"},
    ),
    "bert with its pooler": (
        TIMM | {"timm_pool": "token", "timm_proj": None},
        HF | {"hf_proj_type": "linear", "hf_pooler_type": "cls_pooler"},
    ),
    "bert by mean": (
        TIMM | {"timm_model_name": "test_convnext", "timm_pool": "avg", "timm_proj": "mlp"},
        HF | {"hf_proj_type": "mlp", "hf_pooler_type": "mean_pooler"},
    ),
}
LENGTHS = [4, 9, 6]


def model_cfg(kind: str, folder: Path) -> dict[str, Any]:
    """Returns the config of a small model; the config of its BERT is written into `folder`."""
    vision, text = copy.deepcopy(KINDS[kind])
    embed = 64 if kind == "siglip" else EMBED
    if "hf_model_name" in text:
        bert = BertConfig(
            vocab_size=64,
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
        )
        bert.save_pretrained(folder / "bert")
        text |= {"hf_model_name": str(folder / "bert"), "hf_model_pretrained": False}
    return {"embed_dim": embed, "vision_cfg": vision, "text_cfg": text}


def model_of(config: dict[str, Any]) -> Any:
    """Returns open_clip's own model of a config, every parameter drawn anew."""
    torch.manual_seed(0)
    model = open_clip.CustomTextCLIP(**copy.deepcopy(config)).eval()
    kit.redraw_parameters(model, 0)
    return model


def tokenizer(pad: int = 1) -> PreTrainedTokenizerFast:
    """Returns a tokenizer of 64 words that pads with id `pad` and ends each text with id 61."""
    names = ["unk", "pad0", "pad1", "start"] + [f"w{i}" for i in range(4, 61)] + ["end"]
    names[pad] = "pad"
    words = {word: number for number, word in enumerate(names)}
    backend = Tokenizer(models.WordLevel(words, unk_token="unk"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="$A end", special_tokens=[("end", 61)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="pad", unk_token="unk")


def hub_folder(kind: str, folder: Path, **preprocess: Any) -> tuple[Path, Any]:
    """Returns a folder as open_clip writes it for a hub, and the model that it holds."""
    config = model_cfg(kind, folder)
    model = model_of(config)
    path = folder / "model"
    path.mkdir()
    entries = {"model_cfg": config, "preprocess_cfg": preprocess}
    (path / "open_clip_config.json").write_text(json.dumps(entries))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    save_file(state, path / "open_clip_model.safetensors")
    if "hf_tokenizer_name" in config["text_cfg"]:
        tokenizer(0 if "hf_model_name" in config["text_cfg"] else 1).save_pretrained(path)
    return path, model


def texts(pad: int) -> tuple[Tensor, Tensor]:
    """Returns three texts of unlike length, padded on the right, each with its end token."""
    ids = torch.randint(5, 60, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(9) < torch.tensor(LENGTHS)[:, None]
    ids[torch.arange(3), torch.tensor(LENGTHS) - 1] = 61
    return torch.where(mask, ids, pad), mask.long()


def full_texts(pad: int) -> Tensor:
    """Returns the same texts as open_clip's tokenizers pad them, to 12 tokens."""
    ids, _ = texts(pad)
    return torch.nn.functional.pad(ids, (0, 3), value=pad)
