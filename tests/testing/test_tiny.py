"""Tiny models: their parameters, and the names of their kinds."""

import copy

import pytest
import torch

from mmfusion import testing as kit


def test_redraw_leaves_no_parameter_as_it_was_and_depends_on_the_seed_alone() -> None:
    model = kit.tiny_classifier("cross_attention", image="cnn")
    before = copy.deepcopy(model.state_dict())
    kit.redraw_parameters(model, 1)
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())
    again = kit.tiny_classifier("cross_attention", image="cnn", seed=1)
    assert all(
        torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True)
    )
    assert all(
        (value > 0).all() for name, value in model.named_buffers() if name.endswith("running_var")
    )


def test_the_tiny_kinds_name_the_closest() -> None:
    with pytest.raises(ValueError, match=r"kind must be one of .* Did you mean 'opaque'\?"):
        kit.tiny_image_encoder("opake")
    with pytest.raises(ValueError, match=r"kind must be one of .* Did you mean 'mpnet'\?"):
        kit.tiny_text_encoder("mpnett")


@pytest.mark.parametrize("kind", ["vit", "bert", "roberta", "distilbert", "mpnet", "modernbert"])
def test_a_tiny_config_takes_the_same_sizes_for_every_kind(kind: str) -> None:
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 20}
    config = kit.tiny_config(kind, hidden_size=16, **sizes)
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads")
    assert [getattr(config, name) for name in names] == [16, 2, 4]
    assert config.model_type == kind
    with pytest.raises(ValueError, match="Did you mean"):
        kit.tiny_config(f"{kind}t")
