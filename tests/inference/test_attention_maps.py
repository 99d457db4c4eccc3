"""Recorded attention: the matrices, their rollout, and the maps over the picture."""

import pytest
import torch
from transformers import CLIPVisionConfig, Dinov2Config

from mmfusion import (
    FusionClassifier,
    ImageEncoder,
    TextEncoder,
    attention_rollout,
    image_attention,
    record_attention,
)
from mmfusion.testing import tiny_config

SMALL = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}


def timm_vit(**options):
    return ImageEncoder(
        "vit_tiny_patch16_224", pretrained=False, img_size=32, depth=3, **options
    ).eval()


def hf_vit():
    return ImageEncoder(
        tiny_config("vit", **SMALL, num_hidden_layers=3, image_size=32, patch_size=8)
    ).eval()


@pytest.fixture(params=[timm_vit, hf_vit])
def vit(request):
    torch.manual_seed(0)
    return request.param()


def test_every_layer_gives_a_matrix_whose_rows_sum_to_one(vit):
    with record_attention(vit) as maps:
        vit(torch.randn(2, 3, 32, 32))
    tokens = {"VisionTransformer": 5, "ViTModel": 17}[type(vit.backbone).__name__]
    heads = {"VisionTransformer": 3, "ViTModel": 4}[type(vit.backbone).__name__]
    assert [tuple(found.shape) for found in maps] == [(2, heads, tokens, tokens)] * 3
    for found in maps:
        torch.testing.assert_close(found.sum(-1), torch.ones_like(found.sum(-1)))


def test_recording_leaves_the_answer_and_the_encoder_as_they_were(vit):
    pixels = torch.randn(2, 3, 32, 32)
    before = vit(pixels).tokens
    with record_attention(vit) as maps:
        inside = vit(pixels).tokens
    torch.testing.assert_close(inside, before, atol=1e-5, rtol=1e-5)
    count = len(maps)
    torch.testing.assert_close(vit(pixels).tokens, before, atol=0, rtol=0)
    assert len(maps) == count


def test_an_error_inside_leaves_the_encoder_as_it_was():
    vit = timm_vit()
    with pytest.raises(RuntimeError, match="stop"), record_attention(vit):
        raise RuntimeError("stop")
    assert all(block.attn.fused_attn for block in vit.backbone.blocks)
    assert not any(block.attn.attn_drop._forward_pre_hooks for block in vit.backbone.blocks)


def test_the_matrices_are_softmax_of_queries_and_keys():
    vit = timm_vit()
    pixels = torch.randn(2, 3, 32, 32)
    with record_attention(vit) as maps:
        vit(pixels)
    module = vit.backbone
    values = module.norm_pre(module._pos_embed(module.patch_embed(pixels)))
    for layer, block in enumerate(module.blocks):
        attention, entered = block.attn, block.norm1(values)
        width = attention.head_dim
        weight, bias = attention.qkv.weight, attention.qkv.bias
        for head in range(attention.num_heads):
            rows = slice(head * width, (head + 1) * width)
            query = entered @ weight[rows].T + bias[rows]
            shifted = slice(attention.attn_dim + rows.start, attention.attn_dim + rows.stop)
            key = entered @ weight[shifted].T + bias[shifted]
            expected = torch.softmax(query @ key.mT / width**0.5, dim=-1)
            torch.testing.assert_close(maps[layer][:, head], expected, atol=1e-5, rtol=1e-4)
        values = block(values)


def test_transformers_own_attentions_are_the_same():
    vit, pixels = hf_vit(), torch.randn(2, 3, 32, 32)
    with record_attention(vit) as maps:
        vit(pixels)
    vit.backbone.set_attn_implementation("eager")
    expected = vit.backbone(pixels, output_attentions=True).attentions
    for one, other in zip(maps, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_texts_attend_to_no_padding():
    text = TextEncoder(tiny_config("bert", **SMALL, num_hidden_layers=2, vocab_size=50))
    with record_attention(text.eval()) as maps:
        text(torch.randint(5, 50, (2, 6)), torch.tensor([[1] * 6, [1] * 4 + [0] * 2]))
    assert len(maps) == 2 and maps[0].shape == (2, 4, 6, 6)
    assert (maps[0][1, :, :4, 4:] == 0).all() and (maps[0][0, :, :, 4:] > 0).all()


def test_inside_a_classifier_the_joint_sequence_is_recorded():
    text = TextEncoder(tiny_config("bert", **SMALL, num_hidden_layers=2, vocab_size=50))
    model = FusionClassifier(
        image_encoder=timm_vit(), text_encoder=text, fusion={"name": "joint", "at": 1}
    ).eval()
    # The lengths differ so much that the strategy would otherwise split the batch into two groups.
    mask = torch.ones(8, 40, dtype=torch.long)
    mask[1:, 1:] = 0
    inputs = torch.randn(8, 3, 32, 32), torch.randint(5, 50, (8, 40)), mask
    expected = model(*inputs).logits
    with record_attention(model.image_encoder) as maps:
        torch.testing.assert_close(model(*inputs).logits, expected)
    assert [tuple(found.shape[::3]) for found in maps] == [(8, 5), (8, 45), (8, 45)]


def brute_force_rollout(maps):
    batch, heads, n, _ = maps[0].shape
    rolled = [[[float(i == j) for j in range(n)] for i in range(n)] for _ in range(batch)]
    for found in maps:
        for b in range(batch):
            mixed = [
                [
                    0.5 * (i == j)
                    + 0.5 * sum(float(found[b, h, i, j]) for h in range(heads)) / heads
                    for j in range(n)
                ]
                for i in range(n)
            ]
            rolled[b] = [
                [sum(mixed[i][k] * rolled[b][k][j] for k in range(n)) for j in range(n)]
                for i in range(n)
            ]
    return torch.tensor(rolled)


def test_rollout_is_the_product_from_the_last_layer_down():
    torch.manual_seed(0)
    maps = [torch.randn(2, 3, 4, 4).softmax(-1) for _ in range(3)]
    rolled = attention_rollout(maps)
    torch.testing.assert_close(rolled, brute_force_rollout(maps))
    torch.testing.assert_close(rolled.sum(-1), torch.ones(2, 4))
    assert not torch.allclose(rolled, attention_rollout(maps[::-1]))


def test_maps_lie_over_the_picture():
    vit = timm_vit()
    pixels = torch.randn(2, 3, 32, 32)
    found = image_attention(vit, pixels)
    with record_attention(vit) as maps:
        vit(pixels)
    assert found.heads.shape == (2, 3, 3, 2, 2) and found.rollout.shape == (2, 2, 2)
    # Layer 1, head 2: the row of the class token without its own entry. The patches follow row by
    # row.
    torch.testing.assert_close(found.heads[0, 1, 2].flatten(), maps[1][0, 2, 0, 1:])
    torch.testing.assert_close(found.rollout[1].flatten(), attention_rollout(maps)[1, 0, 1:])


def test_without_a_class_token_it_is_what_patches_take_on_average():
    vit = timm_vit(class_token=False, global_pool="avg")
    found = image_attention(vit.train(), torch.randn(1, 3, 32, 32))
    torch.testing.assert_close(found.heads.sum((-1, -2)), torch.ones(1, 3, 3))
    assert vit.training


@pytest.mark.parametrize(
    "encoder",
    [
        lambda: ImageEncoder(
            "vit_tiny_patch16_224", pretrained=False, img_size=32, depth=1, reg_tokens=2
        ),
        lambda: ImageEncoder(
            "vit_tiny_patch16_224",
            pretrained=False,
            img_size=32,
            depth=1,
            reg_tokens=2,
            class_token=False,
            global_pool="avg",
        ),
        lambda: ImageEncoder("eva02_tiny_patch14_224", pretrained=False, img_size=28),
        lambda: ImageEncoder(
            Dinov2Config(**SMALL, num_hidden_layers=1, image_size=32, patch_size=16)
        ),
        lambda: ImageEncoder(
            CLIPVisionConfig(**SMALL, num_hidden_layers=1, image_size=32, patch_size=16)
        ),
    ],
)
def test_prefix_tokens_are_told_from_patches_in_every_family(encoder):
    vit = encoder()
    pixels = torch.randn(1, 3, *vit.input_spec["size"])
    found = image_attention(vit, pixels)
    with record_attention(vit.eval()) as maps:
        vit(pixels)
    prefix = maps[0].shape[-1] - 4
    has_class_token = getattr(vit.backbone, "cls_token", 0) is not None
    rows = maps[0][0, 0][:1] if has_class_token else maps[0][0, 0][prefix:]
    assert found.heads.shape[-2:] == (2, 2)
    torch.testing.assert_close(found.heads[0, 0, 0].flatten(), rows[:, prefix:].mean(0))


def test_nothing_recorded_is_an_error():
    mpnet = TextEncoder(tiny_config("mpnet", **SMALL, num_hidden_layers=1, vocab_size=50))
    with pytest.raises(ValueError, match="got none from MPNetModel"), record_attention(mpnet):
        mpnet(torch.randint(5, 50, (1, 6)), torch.ones(1, 6, dtype=torch.long))
    with (
        pytest.raises(ValueError, match="must be run inside the block"),
        record_attention(timm_vit()),
    ):
        pass


def test_a_wide_picture_has_a_wide_grid():
    vit = ImageEncoder("vit_tiny_patch16_224", pretrained=False, img_size=(32, 64), depth=1)
    assert image_attention(vit, torch.zeros(1, 3, 32, 64)).rollout.shape == (1, 2, 4)


@pytest.mark.parametrize("name", ["resnet10t", "swin_tiny_patch4_window7_224"])
def test_what_does_not_attend_over_all_tokens_is_refused(name):
    encoder = ImageEncoder(name, pretrained=False)
    with pytest.raises(ValueError, match=r"encoder must (be a transformer|attend over all)"):
        image_attention(encoder, torch.zeros(1, 3, *encoder.input_spec["size"]))


def test_rollout_of_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"maps must be one matrix per layer"):
        attention_rollout([])
