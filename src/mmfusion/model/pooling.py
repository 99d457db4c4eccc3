"""Which pooling an encoder has: the published one of its family, or the one that the user chose."""

import inspect
from collections.abc import Mapping
from typing import Any

from .validation import check_choice, closest

TOWERS: Mapping[str, str] = {
    "aimv2_text_model": "Aimv2TextModel",
    "altclip_text_model": "AltCLIPTextModel",
    "altclip_vision_model": "AltCLIPVisionModel",
    "blip_text_model": "BlipTextModel",
    "blip_vision_model": "BlipVisionModel",
    "chinese_clip_text_model": "ChineseCLIPTextModel",
    "clipseg_text_model": "CLIPSegTextModel",
    "clipseg_vision_model": "CLIPSegVisionModel",
    "metaclip_2_text_model": "MetaClip2TextModel",
    "metaclip_2_vision_model": "MetaClip2VisionModel",
    "siglip2_text_model": "Siglip2TextModel",
    "siglip_text_model": "SiglipTextModel",
    "xclip_text_model": "XCLIPTextModel",
}
"""model type -> class in transformers, of towers that AutoModel does not know."""

TEXT_POOLING: Mapping[str, str] = {
    "altclip_text_model": "cls",
    "blip_text_model": "pooler",
    "chinese_clip_text_model": "cls",
    "clip_text_model": "eos",
    "clipseg_text_model": "eos",
    "metaclip_2_text_model": "eos",
    "siglip2_text_model": "last",
    "siglip_text_model": "last",
    "xclip_text_model": "eos",
}
"""model type -> the pooling with which a text model was published. All others have "mean"."""

IMAGE_POOLERS = frozenset(
    {
        *("aimv2_vision_model", "altclip_vision_model", "blip_vision_model"),
        *("chinese_clip_vision_model", "clip_vision_model", "clipseg_vision_model"),
        *("metaclip_2_vision_model", "mlcd", "mlcd_vision_model", "siglip_vision_model"),
    }
)
"""The vision families whose published vector comes out of a norm or an attention head."""

SWITCHES: Mapping[str, str] = {
    "aimv2_vision_model": "use_head",
    "siglip_vision_model": "vision_use_head",
}
"""vision family -> the field of its config that says whether the pooling head is there."""

CAUSAL = frozenset(
    {
        *("clipseg_text_model", "metaclip_2_text_model", "xclip_text_model"),
        *("afmoe", "apertus", "apertus1p5_text", "arcee", "aria_text", "axk2", "bailing_hybrid"),
        *("bamba", "beam", "biogpt", "bitnet", "bloom", "clip_text_model", "codegen", "cohere"),
        *("cohere2", "cohere2_moe", "ctrl", "cwm", "deepseek_v2", "deepseek_v3", "deepseek_v32"),
        *("deepseek_v4", "diffllama", "doge", "dory", "dots3_note_text", "ernie4_5"),
        *("ernie4_5_moe", "exaone", "exaone4", "exaone_moe", "falcon", "falcon_mamba"),
        *("flex_olmo", "flint", "gemma", "gemma2", "gemma3_text", "gemma3n_text", "gemma4_text"),
        *("gemma4_unified_text", "glm", "glm4", "glm4_moe", "glm4_moe_lite", "glm4v_moe_text"),
        *("glm4v_text", "glm_image_text", "glm_moe_dsa", "glm_ocr_text", "gpt-sw3", "gpt2"),
        *("gpt_bigcode", "gpt_neo", "gpt_neox", "gpt_neox_japanese", "gpt_oss", "gptj"),
        *("granite", "granite_docling_text", "granite_swa", "granitemoe", "granitemoe_swa"),
        *("granitemoehybrid", "granitemoeshared", "helium", "hrm_text", "hy_v3", "hy_v4"),
        *("hyperclovax", "inkling2_loop_text", "inkling2_text", "inkling_text", "internlm3"),
        *("iquestcoder", "jais2", "jamba", "jetmoe", "kimi_linear", "kolibri1", "laguna"),
        *("lara_mini", "lfm2", "lfm2_moe", "lfm3", "llama", "llama4_text", "longcat_flash"),
        *("mamba", "mamba2", "mellum", "minicpm3", "minimax", "minimax_m2", "minimax_m3_vl_text"),
        *("ministral3", "mistral", "mistral_large4_text", "mixtral", "modernbert-decoder"),
        *("molmo2_text", "mpt", "muse_glimmer_text", "muse_spark_text", "nanochat"),
        *("nemotron", "nemotron_h", "olmo", "olmo2", "olmo3", "olmo_hybrid", "olmoe"),
        *("openai-gpt", "opt", "persimmon", "phi", "phi3", "phimoe", "qwen2", "qwen2_5_vl_text"),
        *("qwen2_moe", "qwen2_vl_text", "qwen3", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_moe"),
        *("qwen3_next", "qwen3_vl_moe_text", "qwen3_vl_text", "qwen4_exp_text", "rwkv"),
        *("sarvam_mla", "sarvam_moe", "seed_oss", "smollm3", "solar_open", "stablelm"),
        *("starcoder2", "vaultgemma", "xglm", "xlstm", "youtu", "zaya"),
    }
)
"""The text families in which a token sees only those before it."""


def text_pooling(
    wanted: str | None, family: str, *, has_pooler: bool, dual: str | None = None
) -> str:
    """Returns how a text encoder of transformers pools its tokens.

    Args:
        wanted: "mean", "cls", "eos", "last", "pooler"; None: as the model was published.
        family: the model type of the text model.
        has_pooler: whether the model can be built with a pooler.
        dual: the model type of the dual encoder that it is a tower of, or None.

    Raises:
        ValueError: if the model does not have this pooling.

    Example:
        >>> text_pooling(None, "clip_text_model", has_pooler=False)
        'eos'
        >>> text_pooling(None, "bert", has_pooler=True)
        'mean'
    """
    published = TEXT_POOLING.get(family)
    if wanted is None:
        if published is None and dual == "vision-text-dual-encoder" and has_pooler:
            return "pooler"
        return published or "mean"
    possible = ["mean", "cls", *([published] if published in ("eos", "last") else [])]
    possible += ["pooler"] if has_pooler else []
    if wanted == "cls" and family in CAUSAL:
        instead = [name for name in possible if name != "cls"]
        raise ValueError(
            f"pooling must be {_choice(instead)} for {family!r}, got 'cls'. Its attention is "
            "causal: the first token has seen no other, and is the same for all texts."
        )
    if wanted not in possible:
        raise ValueError(
            f"pooling must be {_choice(possible)} for {family!r}, got {wanted!r}. "
            f"{closest(str(wanted), possible)}"
        )
    return wanted


def image_pooling(wanted: str | None, config: Any, *, dual: str | None = None) -> str | None:
    """Returns "pooler" if a vision model of transformers is pooled by its own last layers.

    Args:
        wanted: "pooler" or "tokens"; None: as the model was published.
        config: of the vision model.
        dual: the model type of the dual encoder that it is a tower of, or None.

    Returns:
        "pooler", or None for the class token or the mean of the tokens.

    Raises:
        ValueError: for another name.
    """
    if wanted is None:
        family = config.model_type
        has_pooler = family in IMAGE_POOLERS and getattr(config, SWITCHES.get(family, ""), True)
        return "pooler" if has_pooler or dual == "vision-text-dual-encoder" else None
    check_choice("pooling", wanted, ["tokens", "pooler"])
    return None if wanted == "tokens" else wanted


def pooler_option(model_class: Any, wanted: bool) -> dict[str, bool]:
    """Returns the option with which a class builds its pooler or leaves it out, if it has one.

    Args:
        model_class: of the backbone.
        wanted: whether the pooler is built.
    """
    takes = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    return {"add_pooling_layer": wanted} if takes else {}


def _choice(names: list[str]) -> str:
    """Returns names as a choice in words, such as "'mean' or 'cls'"."""
    *others, last = map(repr, names)
    return f"{', '.join(others)} or {last}" if others else last
