"""The strategy `concat`: the head on both pooled vectors, side by side."""

import torch

from mmfusion import testing as kit
from mmfusion.model.types import Encoded


def test_it_is_the_head_on_both_pooled_vectors_side_by_side() -> None:
    model = kit.tiny_classifier("concat", image="custom", text="custom")
    inputs = kit.tiny_batch(model, missing=False)
    with torch.no_grad():
        outputs = model(**inputs, output_embeddings=True)
        image = model.image_encoder(inputs["pixel_values"]).pooled
        words = model.text_encoder(inputs["input_ids"], inputs["attention_mask"])
        text = model.mapper(words).pooled
        head, normed = model.fusion.head, []
        for vector, norm in zip((image, text), head.norms, strict=True):
            centred = vector - vector.mean(1, keepdim=True)
            deviation = (centred.square().mean(1, keepdim=True) + norm.eps).sqrt()
            normed.append(centred / deviation * norm.weight + norm.bias)
        expected = torch.cat(normed, dim=1) @ head.out.weight.T + head.out.bias
    torch.testing.assert_close(outputs.embedding, torch.cat([image, text], dim=1))
    torch.testing.assert_close(outputs.logits, expected)


def test_the_learned_token_stands_in_for_what_is_absent() -> None:
    model = kit.tiny_classifier("concat", image="custom", text="custom")
    inputs = kit.tiny_batch(model)
    with torch.no_grad():
        outputs = model(**inputs, output_embeddings=True)
    assert torch.equal(outputs.image_embedding[0], model.absent_image)
    mapped = model.mapper.pooled(
        Encoded(model.absent_text.view(1, 1, -1), torch.tensor([[True]]), model.absent_text[None])
    )
    torch.testing.assert_close(outputs.text_embedding[1], mapped[0])
