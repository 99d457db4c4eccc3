"""Towers of dual encoders: pooled and projected as transformers' own dual models do it."""

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    BlipForImageTextRetrieval,
    CLIPTextConfig,
    CLIPVisionConfig,
    PreTrainedTokenizerFast,
    SiglipTextConfig,
)

from mmfusion import FusionClassifier, FusionProcessor, ImageEncoder, TextEncoder
from mmfusion import testing as kit
from mmfusion.inference.export import export_model
from mmfusion.model.types import Encoded

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
PICTURES: dict[str, Any] = SIZES | {"image_size": 32, "patch_size": 8}
WORDS: dict[str, Any] = SIZES | {
    "vocab_size": 64,
    "max_position_embeddings": 24,
    "pad_token_id": 1,
    "bos_token_id": 60,
    "eos_token_id": 61,
}
SPACE = {"projection_dim": 20}
DUALS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "clip": ("CLIP", WORDS, SPACE),
    "clip of an old config": ("CLIP", WORDS | {"eos_token_id": 2}, SPACE),
    "metaclip 2": ("MetaClip2", WORDS, SPACE),
    "clipseg": ("CLIPSeg", WORDS, SPACE),
    "siglip": ("Siglip", WORDS, {}),
    "siglip of two widths": ("Siglip", WORDS | {"projection_size": 40}, {}),
    "altclip": ("AltCLIP", WORDS | {"max_position_embeddings": 26, "project_dim": 28}, SPACE),
    "chinese clip": ("ChineseCLIP", WORDS | {"pad_token_id": 0}, SPACE),
    "blip": ("Blip", WORDS | {"pad_token_id": 0}, SPACE),
}
LENGTHS = [4, 9, 6]


def dual(kind: str) -> Any:
    name, text, options = DUALS[kind]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(
        text_config=text, vision_config=PICTURES, **options
    )
    model = getattr(transformers, f"{name}Model")(config).eval()
    kit.redraw_parameters(model, 0)
    return model


def texts(end: int = 61, pad: int = 1) -> tuple[Tensor, Tensor]:
    """Returns three texts of unlike length, padded on the right, each with its end token."""
    ids = torch.randint(5, 60, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(9) < torch.tensor(LENGTHS)[:, None]
    ids[torch.arange(3), torch.tensor(LENGTHS) - 1] = end
    return torch.where(mask, ids, pad), mask.long()


def pictures() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def text_features(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """Returns the features of transformers' own model, of texts as its processor pads them."""
    config = model.config.text_config
    inputs: dict[str, Tensor] = {"input_ids": ids, "attention_mask": mask}
    if config.model_type.startswith("siglip"):
        places = config.max_position_embeddings - ids.shape[1]
        full = torch.nn.functional.pad(ids, (0, places), value=config.pad_token_id)
        inputs = {"input_ids": full}
    features: Tensor = model.get_text_features(**inputs).pooler_output
    return features


def encode(encoder: Any, *inputs: Tensor) -> Encoded:
    with torch.no_grad():
        encoded: Encoded = encoder.eval()(*inputs)
    return encoded


@pytest.mark.parametrize("kind", DUALS)
@torch.no_grad()
def test_a_folders_towers_answer_as_the_dual_model(kind: str, tmp_path: Path) -> None:
    model = dual(kind)
    model.save_pretrained(tmp_path)
    projection = "siglip" not in kind
    ids, mask = texts(pad=model.config.text_config.pad_token_id)
    expected = text_features(model, ids, mask)
    text = TextEncoder(str(tmp_path), projection=projection)
    torch.testing.assert_close(encode(text, ids, mask).pooled, expected, rtol=0, atol=1e-5)
    assert text.dim == expected.shape[1] == encode(text, ids, mask).tokens.shape[2]
    for row, length in enumerate(LENGTHS):
        alone = encode(text, ids[row : row + 1, :length]).pooled
        torch.testing.assert_close(alone[0], expected[row], rtol=0, atol=1e-5)
    image = ImageEncoder(str(tmp_path), projection=projection)
    expected = model.get_image_features(pixel_values=pictures()).pooler_output
    torch.testing.assert_close(encode(image, pictures()).pooled, expected, rtol=0, atol=1e-5)
    assert image.dim == expected.shape[1] == encode(image, pictures()).tokens.shape[2]


@pytest.mark.parametrize("kind", ["clip", "siglip", "blip", "altclip"])
@torch.no_grad()
def test_towers_without_the_projection_give_the_vector_in_front_of_it(
    kind: str, tmp_path: Path
) -> None:
    model = dual(kind)
    model.save_pretrained(tmp_path)
    ids, mask = texts(pad=model.config.text_config.pad_token_id)
    own = encode(TextEncoder(str(tmp_path)), ids, mask).pooled
    if kind != "siglip":
        own = model.text_projection(own)
    torch.testing.assert_close(own, text_features(model, ids, mask), rtol=0, atol=1e-5)
    expected = model.vision_model(pictures()).pooler_output
    own = encode(ImageEncoder(str(tmp_path)), pictures()).pooled
    torch.testing.assert_close(own, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "projection"),
    [
        ("clip", False),
        ("clip", True),
        ("metaclip 2", True),
        ("altclip", True),
        ("chinese clip", True),
        ("blip", False),
    ],
)
def test_the_laws_hold_for_both_towers(kind: str, projection: bool) -> None:
    config = dual(kind).config
    kit.check_encoder(
        TextEncoder(config, projection=projection), ImageEncoder(config, projection=projection)
    )


def test_the_laws_hold_for_siglip() -> None:
    config = dual("siglip of two widths").config
    kit.check_encoder(
        TextEncoder(config), TextEncoder(config, pooling="mean"), ImageEncoder(config)
    )


def test_a_siglip_2_of_any_resolution_has_a_text_tower_alone(tmp_path: Path) -> None:
    config = transformers.Siglip2Config(
        text_config=WORDS, vision_config=SIZES | {"num_patches": 16, "patch_size": 8}
    )
    torch.manual_seed(0)
    model = transformers.Siglip2Model(config).eval()
    kit.redraw_parameters(model, 0)
    model.save_pretrained(tmp_path)
    ids, mask = texts()
    with torch.no_grad():
        expected = text_features(model, ids, mask)
    own = encode(TextEncoder(str(tmp_path)), ids, mask).pooled
    torch.testing.assert_close(own, expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"got 'siglip2_vision_model', which takes pixel_atten"):
        ImageEncoder(config)


def tokenizer(side: str = "right") -> PreTrainedTokenizerFast:
    words = {"<pad>": 0, "</s>": 61} | {f"w{i}": i for i in range(1, 60)}
    made = Tokenizer(models.WordLevel(words, unk_token="w1"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        eos_token="</s>",
        padding_side=side,
        model_max_length=24,
        model_input_names=["input_ids"],
    )


def test_siglip_pads_with_the_id_of_its_tokenizer(tmp_path: Path) -> None:
    model = dual("siglip")
    model.save_pretrained(tmp_path)
    words = tokenizer()
    words.save_pretrained(tmp_path)
    batch = ["w7 w8 </s>", "w9 w10 w11 w12 </s>"]
    ids = words(batch, padding="max_length", return_tensors="pt")["input_ids"]
    assert model.config.text_config.pad_token_id == 1 and int(ids[0, -1]) == 0
    with torch.no_grad():
        expected = model.get_text_features(input_ids=ids).pooler_output
    encoder = TextEncoder(str(tmp_path))
    inputs = FusionProcessor.from_encoders(None, encoder)(text=batch)
    assert inputs["input_ids"].shape == (2, 5)
    own = encode(encoder, inputs["input_ids"], inputs["attention_mask"]).pooled
    torch.testing.assert_close(own, expected, rtol=0, atol=1e-5)
    again = TextEncoder.from_config(encoder.config.to_dict())
    again.load_state_dict(encoder.state_dict())
    own = encode(again, inputs["input_ids"], inputs["attention_mask"]).pooled
    torch.testing.assert_close(own, expected, rtol=0, atol=1e-5)
    tokenizer("left").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="must be a checkpoint whose tokenizer pads on the right"):
        TextEncoder(str(tmp_path))


def test_padding_with_the_end_token_and_texts_without_one() -> None:
    torch.manual_seed(0)
    encoder = TextEncoder(CLIPTextConfig(**WORDS | {"pad_token_id": 61}))
    kit.redraw_parameters(encoder, 0)
    ids, mask = texts(pad=61)
    with torch.no_grad():
        expected = encoder.eval().backbone(input_ids=ids, attention_mask=mask).pooler_output
    torch.testing.assert_close(encode(encoder, ids, mask).pooled, expected, rtol=0, atol=1e-6)
    # transformers would pool both texts by their first token, which is the same.
    cut = torch.tensor([[60, 7, 8], [60, 9, 10]])
    own = encode(encoder, cut)
    assert torch.equal(own.pooled, own.tokens[:, -1])
    assert float((own.pooled[0] - own.pooled[1]).abs().max()) > 1e-3


def test_a_projected_class_token_is_the_pooled_vector() -> None:
    encoder = ImageEncoder(dual("clip").config, projection=True)
    encoded = encode(encoder, pictures())
    torch.testing.assert_close(encoded.tokens[:, 0], encoded.pooled, rtol=0, atol=1e-6)


@pytest.mark.parametrize("words", ["BertConfig", "RobertaConfig"])
@pytest.mark.parametrize(
    "sight", ["ViTConfig", "CLIPVisionConfig", "SiglipVisionConfig", "Dinov2Config"]
)
@torch.no_grad()
def test_any_two_towers_in_a_dual_encoder(sight: str, words: str, tmp_path: Path) -> None:
    places = {"max_position_embeddings": 26}
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
        getattr(transformers, sight)(**PICTURES),
        getattr(transformers, words)(**WORDS | places),
        projection_dim=20,
    )
    torch.manual_seed(0)
    model = transformers.VisionTextDualEncoderModel(config).eval()
    kit.redraw_parameters(model, 0)
    model.save_pretrained(tmp_path)
    ids, mask = texts()
    inputs = {"text": {"input_ids": ids, "attention_mask": mask}, "image": {}}
    expected = {
        "text": model.get_text_features(**inputs["text"]).pooler_output,
        "image": model.get_image_features(pixel_values=pictures()).pooler_output,
    }
    heads = {"text": model.text_projection, "image": model.visual_projection}
    for projection in (False, True):
        text = TextEncoder(str(tmp_path), projection=projection)
        image = ImageEncoder(str(tmp_path), projection=projection)
        pooled = {
            "text": encode(text, ids, mask).pooled,
            "image": encode(image, pictures()).pooled,
        }
        for name, own in pooled.items():
            own = own if projection else heads[name](own)
            torch.testing.assert_close(own, expected[name], rtol=0, atol=1e-5)


def test_the_walk_of_a_tower_with_a_pooler() -> None:
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
        transformers.ViTConfig(**PICTURES), transformers.BertConfig(**WORDS)
    )
    image, text = ImageEncoder(config), TextEncoder(config)
    assert (image.num_blocks, text.num_blocks) == (2, 2)
    kit.check_encoder(image, text)


def test_a_tower_without_a_pooled_vector_has_no_projection() -> None:
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
        transformers.ResNetConfig(num_channels=3),
        transformers.DistilBertConfig(dim=32, n_layers=1, n_heads=2, hidden_dim=48),
    )
    with pytest.raises(ValueError, match="pooling must be given for a projection of 'distilbert'"):
        TextEncoder(config, projection=True)
    assert TextEncoder(config, projection=True, pooling="cls").dim == 512


@torch.no_grad()
def test_a_blip_for_retrieval_is_pooled_by_its_first_tokens(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = BlipForImageTextRetrieval(dual("blip").config).eval()
    kit.redraw_parameters(model, 0)
    model.save_pretrained(tmp_path)
    ids, mask = texts(pad=0)
    output = model(ids, pictures(), attention_mask=mask, use_itm_head=False)
    image = model.vision_proj(encode(ImageEncoder(str(tmp_path)), pictures()).pooled)
    text = model.text_proj(encode(TextEncoder(str(tmp_path)), ids, mask).pooled)
    image, text = (torch.nn.functional.normalize(value, dim=-1) for value in (image, text))
    torch.testing.assert_close(image @ text.t(), output[0], rtol=0, atol=1e-5)


def test_pictures_encoders_that_were_saved_before_keep_their_pooling() -> None:
    encoder = ImageEncoder(CLIPVisionConfig(**PICTURES))
    saved = encoder.config.to_dict()
    assert saved.pop("pooling") == "pooler"
    old = ImageEncoder.from_config(saved)
    old.load_state_dict(encoder.state_dict())
    own = encode(old, pictures())
    assert torch.equal(own.pooled, own.tokens[:, 0]) and "pooling" not in old.config.to_dict()
    named = ImageEncoder(CLIPVisionConfig(**PICTURES), pooling="tokens")
    assert named.config.pooling is None


def test_a_classifier_with_projected_towers_comes_back_the_same(tmp_path: Path) -> None:
    config = dual("clip").config
    model = FusionClassifier(
        image_encoder=ImageEncoder(config, projection=True),
        text_encoder=TextEncoder(config, projection=True),
    ).eval()
    kit.redraw_parameters(model, 0)
    model.save_pretrained(tmp_path)
    again = FusionClassifier.from_pretrained(tmp_path).eval()
    batch = {"pixel_values": pictures(), "input_ids": texts()[0][:2]}
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, model(**batch).logits)
    assert again.text_encoder.config.projection == 20


@pytest.mark.parametrize("kind", ["clip", "clip of an old config", "siglip"])
@torch.no_grad()
def test_an_exported_graph_takes_texts_of_any_number_and_length(kind: str, tmp_path: Path) -> None:
    model = FusionClassifier(text_encoder=TextEncoder(dual(kind).config)).eval()
    kit.redraw_parameters(model, 0)
    export_model(model, tmp_path / "model.onnx")
    export_model(model, tmp_path / "model.pt2")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    graph = torch.export.load(tmp_path / "model.pt2").module()
    generator = torch.Generator().manual_seed(0)
    for rows, places in ((3, 9), (1, 1), (2, 23), (4, 24)):
        ids = torch.randint(5, 60, (rows, places), generator=generator)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        expected = model(**inputs).logits
        answer = session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]
        torch.testing.assert_close(torch.from_numpy(answer), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(graph(*inputs.values()), expected, rtol=0, atol=1e-5)


def test_adapters_stand_beside_the_projection_too() -> None:
    encoder = TextEncoder(dual("clip").config, projection=True)
    before = encode(encoder, *texts()).pooled
    encoder.add_lora(r=2)
    assert torch.equal(encode(encoder, *texts()).pooled, before)
    kit.redraw_parameters(encoder, 1)
    adapted = encode(encoder, *texts()).pooled
    assert float((adapted - before).abs().max()) > 1e-3
    merged = encode(encoder.merge_lora(), *texts()).pooled
    torch.testing.assert_close(merged, adapted, rtol=1e-5, atol=1e-5)


def test_a_longer_text_than_siglip_was_trained_on_is_refused() -> None:
    encoder = TextEncoder(SiglipTextConfig(**WORDS))
    with pytest.raises(ValueError, match="input_ids must be at most 24 tokens per text, got 25"):
        encoder(torch.ones(1, 25, dtype=torch.long))
