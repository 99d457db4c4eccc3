"""The strategy `concat`: the head on both pooled vectors, side by side."""

import torch
from einops import rearrange

from mmfusion import testing as kit
from mmfusion.model.types import Encoded


def normed(vectors: torch.Tensor) -> torch.Tensor:
    """Returns each vector minus its mean, divided by its standard deviation."""
    centred = vectors - vectors.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()


def side_by_side(vectors: list[torch.Tensor], head: torch.nn.Module) -> torch.Tensor:
    """Returns the logits of a head."""
    scaled = [
        normed(vector) * norm.weight + norm.bias
        for vector, norm in zip(vectors, head.norms, strict=True)
    ]
    return torch.cat(scaled, dim=1) @ head.out.weight.T + head.out.bias


def test_it_is_the_head_on_both_pooled_vectors_side_by_side_and_the_probe() -> None:
    model = kit.tiny_classifier("concat", image="custom", text="custom")
    inputs = kit.tiny_batch(model, missing=False)
    with torch.no_grad():
        outputs = model(**inputs, output_embeddings=True)
        image = normed(model.image_encoder(inputs["pixel_values"]).pooled)
        words = model.text_encoder(inputs["input_ids"], inputs["attention_mask"])
        words = words._replace(
            tokens=rearrange(
                normed(rearrange(words.tokens, "b l d -> (b l) d")), "(b l) d -> b l d", b=4
            ),
            pooled=normed(words.pooled),
        )
        text = model.mapper(words).pooled
        strategy = side_by_side([image, text], model.fusion.head)
        words = words.pooled
        features = torch.cat([normed(image), normed(words), torch.zeros(len(words), 2)], dim=1)
        start = features @ model.probe.out.weight.T + model.probe.out.bias
    torch.testing.assert_close(outputs.embedding, torch.cat([image, text], dim=1))
    torch.testing.assert_close(outputs.logits, strategy + start)


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
