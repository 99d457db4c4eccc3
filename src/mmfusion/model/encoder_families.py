"""transformers' families: which ones are no encoders here, and which may be computed with padding.

`python tests/golden/make_transformers_families.py` runs every family through the laws.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import transformers
from transformers import AutoModel, PreTrainedConfig
from transformers.utils import logging

from .pooling import TOWERS

logger = logging.get_logger(__name__)

_FILMS = "takes films"
_NO_STATE = "returns no last hidden state"
_PAIRS = "compares pairs of pictures"
_SOUND = "makes sound"
_TIMM = "is a model of timm: give its timm name"
_UNCHECKED = "has not passed the laws, because no tiny configuration of it could be built"

REFUSED: Mapping[str, str] = {
    "aimv2_text_model": "attends forwards in a text alone, and not in a text beside a longer one",
    "axk1": _UNCHECKED,
    "blt": "groups bytes by patches that depend on the text beside it",
    "canine": "cannot read texts of fewer than 4 characters, and mixes padding into longer ones",
    "cohere_compass_text": _UNCHECKED,
    "cosmos3_edge_text": _UNCHECKED,
    "dbrx": _UNCHECKED,
    "depth_pro": "returns maps of depth",
    "dinat": "needs the package natten, with which it has not been checked",
    "dots1": _UNCHECKED,
    "dpr": "returns one vector and no tokens",
    "edgetam": _UNCHECKED,
    "edgetam_vision_model": _UNCHECKED,
    "efficientloftr": _PAIRS,
    "falcon_h1": "answers otherwise after it was saved and loaded",
    "fastspeech2_conformer": _SOUND,
    "fastspeech2_conformer_with_hifigan": _SOUND,
    "funnel": "cannot read texts of two tokens, and mixes padding into longer ones",
    "gemma3n_vision": _TIMM,
    "glm5_next_text": _UNCHECKED,
    "gradium_phonon_tts": _SOUND,
    "hgnet_v2": _NO_STATE,
    "higgs_audio_v2": _SOUND,
    "hunyuan_v1_dense": _UNCHECKED,
    "hunyuan_v1_moe": _UNCHECKED,
    "hunyuan_vl_text": _UNCHECKED,
    "hy_v4_vl_text": _UNCHECKED,
    "imagegpt": "reads pictures as token ids",
    "kyutai_speech_to_text": _SOUND,
    "lightglue": _PAIRS,
    "lw_detr": _UNCHECKED,
    "mask2former": _NO_STATE,
    "maskformer": _NO_STATE,
    "mgp-str": _NO_STATE,
    "mimo_v2_flash": _UNCHECKED,
    "ministral": _UNCHECKED,
    "mistral4": _UNCHECKED,
    "moshi": _SOUND,
    "mra": "attends to nothing where its compiled kernel is not installed",
    "pixtral": "joins the pictures of a batch into one sequence",
    "pocket_tts": _SOUND,
    "pp_ocrv6_medium_det": _UNCHECKED,
    "pp_ocrv6_small_det": _UNCHECKED,
    "recurrent_gemma": "answers otherwise after it was saved and loaded",
    "reformer": "hashes tokens at random",
    "sam2": _UNCHECKED,
    "sam2_hiera_det_model": _UNCHECKED,
    "sam2_vision_model": _UNCHECKED,
    "tapas": "reads tables, with the places of cells",
    "timesformer": _FILMS,
    "timm_backbone": _TIMM,
    "timm_wrapper": _TIMM,
    "uvdoc": _UNCHECKED,
    "videomae": _FILMS,
    "vits": _SOUND,
    "vivit": _FILMS,
    "zamba": _UNCHECKED,
    "zamba2": _UNCHECKED,
}
"""model type -> why no encoder is made of it."""

WITH_PADDING = frozenset(
    {
        *("afmoe", "albert", "altclip_text_model", "apertus", "apertus1p5_text", "arcee"),
        *("aria_text", "axk2"),
        *("bailing_hybrid", "bamba", "beam", "bert", "bert-generation", "big_bird", "biogpt"),
        *("bitnet", "blip_text_model", "bloom", "camembert", "chinese_clip_text_model"),
        *("clip_text_model", "clipseg_text_model", "codegen", "cohere", "cohere2"),
        *("cohere2_moe", "ctrl", "cwm", "data2vec-text", "deberta", "deberta-v2"),
        *("deepseek_v2", "deepseek_v3", "deepseek_v32", "deepseek_v4", "diffllama"),
        *("distilbert", "doge", "dory", "dots3_note_text", "electra"),
        *("embedding_gemma2_text", "ernie", "ernie4_5", "ernie4_5_moe", "esm", "esmc"),
        *("eurobert", "exaone", "exaone4", "exaone_moe", "falcon", "falcon_mamba"),
        *("flaubert", "flex_olmo", "flint", "gemma", "gemma2", "gemma3_text", "gemma3n_text"),
        *("gemma4_text", "gemma4_unified_text", "glm", "glm4", "glm4_moe", "glm4_moe_lite"),
        *("glm4v_moe_text", "glm4v_text", "glm_image_text", "glm_moe_dsa", "glm_ocr_text"),
        *("gpt-sw3", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gpt_neox_japanese"),
        *("gpt_oss", "gptj", "granite", "granite_docling_text", "granite_swa", "granitemoe"),
        *("granitemoe_swa", "granitemoehybrid", "granitemoeshared", "gte", "helium"),
        *("hrm_text", "hy_v3", "hy_v4", "hyperclovax", "ibert", "inkling2_loop_text"),
        *("inkling2_text", "inkling_text", "internlm3", "iquestcoder", "jais2", "jamba"),
        *("jetmoe", "jina_embeddings_v3", "kimi_linear", "kolibri1", "laguna", "lara_mini"),
        *("lfm2", "lfm2_moe", "lfm3", "llama", "llama4_text", "longcat_flash", "longformer"),
        *("mamba", "mamba2", "megatron-bert", "mellum", "metaclip_2_text_model", "minicpm3"),
        *("minimax", "minimax_m2"),
        *("minimax_m3_vl_text", "ministral3", "mistral", "mistral_large4_text", "mixtral"),
        *("modernbert", "modernbert-decoder", "molmo2_text", "mpnet", "mpt"),
        *("muse_glimmer_text", "muse_spark_text", "nanochat", "nemotron", "nemotron_h"),
        *("nomic_bert", "olmo", "olmo2", "olmo3", "olmo_hybrid", "olmoe", "openai-gpt"),
        *("openai_privacy_filter", "opt", "persimmon", "phi", "phi3", "phimoe", "qwen2"),
        *("qwen2_5_vl_text", "qwen2_moe", "qwen2_vl_text", "qwen3", "qwen3_5_moe_text"),
        *("qwen3_5_text", "qwen3_moe", "qwen3_next", "qwen3_vl_moe_text", "qwen3_vl_text"),
        *("qwen4_exp_text", "rembert", "roberta", "roberta-prelayernorm", "roformer", "rwkv"),
        *("sarvam_mla", "sarvam_moe", "seed_oss", "siglip2_text_model"),
        *("siglip_text_model", "smollm3", "solar_open", "splinter"),
        *("squeezebert", "stablelm", "starcoder2", "tipsv2_text_model", "ultrabert"),
        *(
            "vaultgemma",
            "xclip_text_model",
            "xglm",
            "xlm",
            "xlm-roberta",
            "xlm-roberta-xl",
            "xlnet",
            "xlstm",
        ),
        *("xmod", "youtu", "zaya"),
    }
)
"""The text families whose answers do not depend on padding behind the real tokens.

Texts of any other family are computed in groups of equal length, without padding.
"""

WITHOUT_PADDING = frozenset(
    {
        *("convbert", "cpmant", "fnet", "mobilebert", "nystromformer"),
        *("sam3_lite_text_text_model", "yoso"),
    }
)
"""The text families that keep the laws in groups of equal length, and not with padding."""

VISION = frozenset(
    {
        *("aimv2_vision_model", "altclip_vision_model", "beit", "bit", "blip_vision_model"),
        *("chinese_clip_vision_model", "clip_vision_model", "clipseg_vision_model"),
        *("convnext", "convnextv2", "cvt", "data2vec-vision", "deit"),
        *("dinov2", "dinov2_with_registers", "dinov3_convnext", "dinov3_vit", "donut-swin"),
        *("dpt", "efficientnet", "focalnet", "glpn", "granite_docling_vision", "hiera"),
        *("idefics3_vision", "ijepa", "internvl_vision", "levit", "maskformer-swin", "mlcd"),
        *(
            "mlcd_vision_model",
            "metaclip_2_vision_model",
            "mobilenet_v1",
            "mobilenet_v2",
            "mobilevit",
            "mobilevitv2",
        ),
        *("pixio", "poolformer", "pp_ocrv5_mobile_rec", "pp_ocrv5_server_rec"),
        *("pp_ocrv6_small_rec", "pp_ocrv6_tiny_rec", "pvt", "pvt_v2", "qianfan_ocr_vision"),
        *("radio", "regnet", "resnet", "rf_detr", "sam3_vision_model", "sam3_vit_model"),
        *("sam_hq_vision_model", "sam_vision_model", "sapiens2", "segformer"),
        *("siglip_vision_model", "smolvlm_vision", "swiftformer", "swin", "swin2sr"),
        *("swinv2", "textnet", "tipsv2_vision_model", "vit", "vit_mae", "vit_msn", "vitdet"),
        *("yolos",),
    }
)
"""The vision families that keep the laws."""

_FOREIGN_INPUTS = frozenset(
    {
        *("audio_codes", "audio_input_features", "audio_input_ids", "bbox", "entity_ids"),
        *("image_pixel_values", "input_features", "input_shape_ids", "input_values"),
        *("pixel_values", "pixel_values_videos", "prompt_pixel_values", "target_sizes"),
        *("visual_embeds", "visual_feats", "xpath_tags_seq"),
    }
)
"""Arguments of forward that stand for inputs of another kind."""

FIXED_FIELDS: Mapping[str, Mapping[str, Any]] = {
    # Block-sparse attention switches itself off for good at the first short text. The answer for a
    # long text would then depend on the texts before it.
    "big_bird": {"attention_type": "original_full"},
    # As an encoder of texts it has no picture to attend to.
    "blip_text_model": {"is_decoder": False},
    # Its pretraining hides most of the patches, in evaluation mode too.
    "vit_mae": {"mask_ratio": 0.0},
}
"""model type -> fields of its config that have one lawful value."""


def model_class_of(config: PreTrainedConfig, *, takes: str) -> Any:
    """Returns the class of a config's model, if an encoder can be made of it.

    Args:
        config: of the model.
        takes: the model's only input: "input_ids" or "pixel_values".

    Raises:
        ValueError: if the model takes other inputs, or its family breaks a law of the library.
    """
    family = config.model_type
    if family in REFUSED:
        raise ValueError(
            f"name must be an encoder that keeps the laws, got {family!r}, which {REFUSED[family]}."
            " Choose another model."
        )
    if family in TOWERS:
        model_class: Any = getattr(transformers, TOWERS[family])
    elif type(config) in AutoModel._model_mapping:
        classes: Any = AutoModel._model_mapping[type(config)]
        model_class = classes[0] if isinstance(classes, tuple | list) else classes
    else:
        raise ValueError(
            f"name must be a model that transformers' AutoModel knows, got {family!r}. Choose "
            "another model."
        )
    arguments = inspect.signature(model_class.forward).parameters
    if getattr(config, "is_encoder_decoder", False) or "decoder_input_ids" in arguments:
        raise ValueError(
            f"name must be an encoder, got {family!r}, an encoder-decoder. Choose an encoder-only "
            "model."
        )
    foreign = [
        name
        for name, argument in arguments.items()
        if name not in ("self", takes)
        and (
            name in _FOREIGN_INPUTS
            or (
                argument.default is argument.empty
                and argument.kind == argument.POSITIONAL_OR_KEYWORD
            )
        )
    ]
    if takes not in arguments or foreign:
        raise ValueError(
            f"name must be a model that takes {takes} alone, got {family!r}, which takes "
            f"{', '.join(foreign) or 'other inputs'}. Choose another model, or wrap it in a module "
            "of your own and register that with register_backbone."
        )
    if family not in WITH_PADDING | WITHOUT_PADDING | VISION:
        logger.warning(
            f"{family!r} has not been checked against the laws of the library. Check it with "
            "mmfusion.testing.check_encoder."
        )
    return model_class
