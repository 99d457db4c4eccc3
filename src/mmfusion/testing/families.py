"""Every family of transformers in a tiny configuration, and the laws run on it."""

import inspect
import sys
import tempfile
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from ..model.encoder_image import ImageEncoder
from ..model.encoder_text import TextEncoder
from ..model.modeling import FusionClassifier
from ..model.pooling import TOWERS
from .batches import tiny_batch
from .compare import TOLERANCE, agree, logits_of
from .laws import KEY_BIAS, check_batch_law, check_padding_law
from .tiny import redraw_parameters

_SIZES: dict[str, Any] = (
    {
        "unpadded_vocab_size": 64,
        "vocab_size": 64,
        "image_size": 32,
        "patch_size": 8,
    }
    | dict.fromkeys(
        (
            *("hidden_size", "d_model", "dim", "n_embd", "emb_dim", "embed_dim", "embedding_size"),
            *("embedding_dim", "attention_hidden_size", "width", "head_dim_total"),
        ),
        32,
    )
    | dict.fromkeys(
        (
            *("intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim", "ffn_dim", "hidden_dim"),
            *("d_ff", "d_inner", "n_inner", "ffn_hidden_size", "moe_intermediate_size", "mlp_dim"),
            *("shared_expert_intermediate_size", "shared_intermediate_size", "decoder_hidden_size"),
        ),
        48,
    )
    | dict.fromkeys(
        (
            *("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers"),
            *("decoder_layers", "num_decoder_layers", "depth", "decoder_num_hidden_layers"),
        ),
        2,
    )
    | dict.fromkeys(
        (
            *("num_attention_heads", "num_heads", "n_head", "n_heads", "encoder_attention_heads"),
            *("decoder_attention_heads", "num_key_value_heads", "index_n_heads"),
            *("swa_num_attention_heads", "swa_num_key_value_heads", "linear_num_heads"),
            *("linear_num_key_heads", "linear_num_value_heads", "num_experts_per_tok"),
            *("moe_topk", "num_experts_per_token", "moe_k"),
        ),
        2,
    )
    | dict.fromkeys(
        (
            *("head_dim", "v_head_dim", "linear_key_head_dim", "linear_value_head_dim", "d_kv"),
            *("d_head", "swa_head_dim", "linear_head_dim", "kv_channels", "qk_head_dim"),
            *("index_head_dim", "kv_lora_rank", "q_lora_rank", "embedding_dimension"),
        ),
        16,
    )
    | dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim"), 8)
    | dict.fromkeys(
        (
            *("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"),
            *("num_routed_experts", "n_experts"),
        ),
        4,
    )
    | dict.fromkeys(
        (
            *(
                "max_position_embeddings",
                "n_positions",
                "max_seq_len",
                "max_2d_position_embeddings",
            ),
            *("context_length", "model_max_length", "max_source_positions", "n_ctx"),
        ),
        64,
    )
)
"""The fields of configs by name, and their values in a tiny configuration."""

_STAGES = 16
"""The width of the first stage of a family of stages. Each next stage is twice as wide."""

_WINDOWS: dict[str, Any] = {
    "patch_size": 4,
    "window_size": 4,
    "embed_dim": 16,
    "depths": [1, 1],
    "num_heads": [2, 2],
}
_ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0}
_THREE_ROPES: dict[str, Any] = {"rope_parameters": _ROPE | {"mrope_section": [4, 2, 2]}}
_MAMBA: dict[str, Any] = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8}
_OVERRIDES: dict[str, dict[str, Any]] = {
    "bamba": _MAMBA,
    "bit": {"num_groups": 2, "embedding_size": 16, "hidden_sizes": [16, 16, 32, 32]},
    "codegen": {"rotary_dim": 8},
    "convnext": {"patch_size": 4},
    "convnextv2": {"patch_size": 4},
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "donut-swin": _WINDOWS,
    "efficientnet": {
        "image_size": 64,
        "hidden_dim": 1280,
        "width_coefficient": 1.0,
        "depth_coefficient": 1.0,
    },
    "esm": {"vocab_size": 64, "pad_token_id": 1, "mask_token_id": 2},
    "falcon_h1": _MAMBA | {"mamba_d_ssm": 64},
    "focalnet": {"patch_size": 4, "embed_dim": 16, "hidden_sizes": [16, 32, 64, 64]},
    "gemma3n_text": {"num_kv_shared_layers": 0, "layer_types": ["full_attention"] * 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 8},
    "granitemoehybrid": _MAMBA,
    "hiera": {"hidden_size": 256, "patch_size": [7, 7], "image_size": [64, 64]},
    "glm4v_moe_text": {"rope_parameters": _ROPE | {"mrope_section": [2, 1, 1]}},
    "glm4v_text": _THREE_ROPES,
    "glm_image_text": _THREE_ROPES,
    "glm_ocr_text": _THREE_ROPES,
    "levit": {
        "image_size": 64,
        "patch_size": 16,
        "hidden_sizes": [128, 256, 384],
        "num_attention_heads": [4, 8, 12],
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_experts": 4},
    "mamba2": {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1},
    "maskformer-swin": _WINDOWS,
    "nemotron": {"num_key_value_heads": 2, "head_dim": 16},
    "mobilenet_v1": {"image_size": 64},
    "mobilevit": {"image_size": 64, "patch_size": 2},
    "mobilevitv2": {"image_size": 64, "patch_size": 2},
    "qwen2_5_vl_text": _THREE_ROPES,
    "qwen2_vl_text": _THREE_ROPES,
    "swin": _WINDOWS,
    "swin2sr": _WINDOWS | {"image_size": 16, "patch_size": 1},
    "swinv2": _WINDOWS,
    "textnet": {"hidden_sizes": [64, 64, 128, 256, 512]},
    "xmod": {"default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1},
}
"""What single families need besides."""


def families(kind: str) -> list[str]:
    """Returns the families of transformers that take texts alone, or pictures alone.

    These are the families of AutoModel, and towers of dual encoders that AutoModel does not know.
    Families with a text and a picture tower are left out, because each tower has a family.

    Args:
        kind: "text" or "image".
    """
    takes, other = ("input_ids", "pixel_values")[:: 1 if kind == "text" else -1]
    found = []
    for family in sorted({*MODEL_MAPPING_NAMES, *TOWERS}):
        try:
            config_class = type(AutoConfig.for_model(family))
            if family in TOWERS:
                classes: Any = getattr(transformers, TOWERS[family])
            else:
                classes = AutoModel._model_mapping[config_class]
            model_class = classes[0] if isinstance(classes, tuple | list) else classes
            arguments = inspect.signature(getattr(model_class, "forward", families)).parameters
        # The class is not in this version of transformers, or a package for it is not installed.
        except (ValueError, ImportError):
            continue
        towers = {"text_config", "vision_config"} & set(
            getattr(config_class, "sub_configs", None) or {}
        )
        if takes in arguments and other not in arguments and not towers:
            found.append(family)
    return found


def check_family(family: str, kind: str, *, setup: Any = None) -> list[str]:
    """Checks the encoder of one family against the batch, padding and repetition laws.

    A classifier is also saved and loaded in this process, except with `setup`.

    Args:
        family: a name of `families`.
        kind: "text" or "image".
        setup: called with the encoder before the laws run. None changes nothing.

    Returns:
        The parameters that get no gradient, because the family's last hidden state does not use
        them.

    Raises:
        ValueError: with the reason, if no encoder is made of the family.
        AssertionError: that names the law which the family breaks.
    """
    torch.manual_seed(0)
    config = tiny_family_config(family)
    encoder = TextEncoder(config) if kind == "text" else ImageEncoder(config)
    if setup is not None:
        setup(encoder)
    model = FusionClassifier(**{f"{kind}_encoder": encoder}).eval()  # type: ignore[arg-type]
    redraw_parameters(model, 0)
    batch = tiny_batch(model)
    agree("repetition law", logits_of(model, batch), logits_of(model, batch), 0.0)
    check_batch_law(model, batch)
    if kind == "text":
        check_padding_law(model, batch)
    if setup is None:
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            again = FusionClassifier.from_pretrained(folder)
            agree("round trip law", logits_of(model, batch), logits_of(again, batch), TOLERANCE)
    model.train()(**batch).loss.backward()
    return [
        name.removeprefix(f"{kind}_encoder.backbone.")
        for name, weight in model.named_parameters()
        if (weight.grad is None or not weight.grad.any())
        and weight.numel()
        and not KEY_BIAS.search(name)
    ]


def check_heads(family: str, kind: str) -> tuple[list[str], list[str]]:
    """Checks that checkpoints with a head give the encoder the weights of their base model.

    Args:
        family: a name of `families`.
        kind: "text" or "image".

    Returns:
        The classes with a head that were saved and read, and those whose checkpoint is refused.

    Raises:
        AssertionError: that names the class and the tensors which differ.
    """
    base = (
        type(ImageEncoder(tiny_family_config(family)).backbone)
        if kind == "image"
        else type(TextEncoder(tiny_family_config(family)).backbone)
    )
    read, refused = [], []
    for whole in _with_head(family, base):
        with tempfile.TemporaryDirectory() as folder:
            try:
                whole.save_pretrained(folder)
                encoder = TextEncoder(folder) if kind == "text" else ImageEncoder(folder)
            # Some of them leave out, or rename, a part of the backbone.
            except (ValueError, RuntimeError):
                refused.append(type(whole).__name__)
                continue
        expected = whole.base_model.state_dict()
        different = [
            key
            for key, value in encoder.backbone.state_dict().items()
            if key not in expected or not torch.equal(value, expected[key])
        ]
        assert not different, f"{type(whole).__name__}: {different[:5]} differ from its base model"
        read.append(type(whole).__name__)
    return read, refused


def _with_head(family: str, base: Any) -> Any:
    """Yields a model of each class with a head that a family has."""
    for name, head in vars(sys.modules[base.__module__]).items():
        if (
            inspect.isclass(head)
            and issubclass(head, PreTrainedModel)
            and ("For" in name or name.endswith("HeadModel"))
            and head.config_class is base.config_class
            and head is not base
        ):
            torch.manual_seed(0)
            try:
                whole = head(tiny_family_config(family))
            # Some heads need fields of the config that others do not have.
            except (ValueError, TypeError, AttributeError, RuntimeError):
                continue
            if isinstance(whole.base_model, base):
                yield whole


def tiny_family_config(model_type: str) -> PreTrainedConfig:
    """Returns a tiny configuration of one family of transformers.

    Args:
        model_type: a key of transformers' AutoModel.
    """
    config: PreTrainedConfig = _tiny(type(AutoConfig.for_model(model_type)))
    # The fast kernel for experts takes no float64, in which gradients are checked.
    config._experts_implementation = "eager"
    return config


def _tiny(config_class: Any) -> Any:
    default = config_class()
    own = _OVERRIDES.get(default.model_type, {})
    held = default.to_dict()
    fields: dict[str, Any] = {}
    for name, value in held.items():
        if isinstance(value, int) and not isinstance(value, bool) and name in _SIZES:
            fields[name] = _SIZES[name]
        elif isinstance(value, (list, tuple)) and value:
            fields |= _tiny_list(name, list(value))
        elif isinstance(getattr(default, name, None), PreTrainedConfig):
            fields[name] = _tiny(type(getattr(default, name))).to_dict()
    if "qk_rope_head_dim" in held and "head_dim" in held:
        fields["head_dim"] = _SIZES["qk_rope_head_dim"]
    rope = held.get("rope_parameters")
    if isinstance(rope, dict) and "mrope_section" in rope:
        # The three sections share half of the width that is rotated.
        places = int(_SIZES["head_dim"] * rope.get("partial_rotary_factor", 1.0)) // 2
        rest = places - 2 * (places // 3)
        fields["rope_parameters"] = rope | {"mrope_section": [rest, places // 3, places // 3]}
    for token in ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"):
        value = held.get(token)
        if isinstance(value, int) and value >= _SIZES["vocab_size"]:
            fields[token] = 0 if token == "pad_token_id" else 1
    return config_class(**(fields | own))


def _tiny_list(name: str, value: list[Any]) -> dict[str, Any]:
    """Returns the tiny form of a field that holds one value per stage."""
    if name in ("depths", "num_hidden_layers"):
        return {name: [1] * len(value)}
    if name in ("hidden_sizes", "embed_dims", "embed_dim"):
        return {name: [_STAGES * 2**stage for stage in range(len(value))]}
    if name == "image_size":
        return {name: [_SIZES[name]] * len(value)}
    if name in ("num_heads", "num_attention_heads"):
        return {name: [min(heads, 2) for heads in value]}
    return {}
