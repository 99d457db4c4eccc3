"""The strategy `guarded`: three answers in a weighted product, by the documented formula."""

import pytest
import torch
import torch.nn.functional as F

from mmfusion import testing as kit
from mmfusion.model.masking import normalized


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_answers_are_pooled_by_the_formula(multi_label: bool) -> None:
    problem = "multi_label_classification" if multi_label else None
    model = kit.tiny_classifier("guarded", image="custom", text="custom", problem_type=problem)
    strategy, weights = model.fusion, torch.tensor([0.7, -0.2, 1.3])
    prior = torch.tensor([0.2, 0.3, 0.5])
    prior = prior.logit() if multi_label else prior.log()
    with torch.no_grad():
        strategy.weights.copy_(weights)
        strategy.log_prior.copy_(prior)
    inputs = kit.tiny_batch(model)
    present = [inputs["image_present"], inputs["text_present"]]
    with torch.no_grad():
        logits = model(**inputs).logits
        output = model(**inputs, output_embeddings=True)
        words = normalized(model.text_encoder(inputs["input_ids"], inputs["attention_mask"]))
        picture = normalized(model.image_encoder(inputs["pixel_values"])).pooled
        mapped = model.mapper(words).pooled
        joint = strategy.joint_probe([picture, words.pooled], present)
        # The head sees the learned tokens that stand in for what is absent.
        joint = joint + strategy.joint_head(output.image_embedding, output.text_embedding)
        image = strategy.image_probe([picture], present[:1])
        text = strategy.text_probe([words.pooled], present[1:])
    assert mapped.shape == output.text_embedding.shape
    log = (lambda scores: scores) if multi_label else (lambda scores: F.log_softmax(scores, -1))
    for row in range(4):
        answers = [
            image[row] if present[0][row] else joint[row],
            text[row] if present[1][row] else joint[row],
            joint[row],
        ]
        # A negative weight counts as zero.
        expected = prior + sum(
            weight * (log(answer) - prior)
            for weight, answer in zip((0.7, 0.0, 1.3), answers, strict=True)
        )
        torch.testing.assert_close(logits[row], expected)


def test_with_one_weight_it_answers_as_that_answer_alone() -> None:
    model = kit.tiny_classifier("guarded", image="custom", text="custom")
    with torch.no_grad():
        model.fusion.weights.copy_(torch.tensor([1.0, 0.0, 0.0]))
    inputs = kit.tiny_batch(model, missing=False)
    with torch.no_grad():
        logits = model(**inputs).logits
        picture = normalized(model.image_encoder(inputs["pixel_values"])).pooled
        alone = model.fusion.image_probe([picture], [torch.ones(4, dtype=torch.bool)])
    torch.testing.assert_close(logits.softmax(-1), alone.softmax(-1))
