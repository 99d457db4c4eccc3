"""The encoders of a comparison: copies of what trains, and a digest of all that matters."""

from dataclasses import replace

import torch

from mmfusion import ComparisonRow, ImageEncoder, TextEncoder
from mmfusion.data.toy import word_tokenizer
from mmfusion.testing import tiny_config
from mmfusion.training.compare_encoders import Encoders

WIDTHS = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def encoders_of(seed: int = 0) -> Encoders:
    torch.manual_seed(seed)
    image = ImageEncoder(tiny_config("vit", **WIDTHS, image_size=32, patch_size=8))
    return Encoders(image.freeze(), TextEncoder(tiny_config("bert", **WIDTHS)))


def test_what_trains_is_copied_and_what_is_frozen_is_shared():
    encoders = encoders_of()
    image, text = encoders.taken(ComparisonRow("concat"))
    assert image is encoders.image and text is not encoders.text
    with torch.no_grad():
        next(text.parameters()).add_(1)
    assert not torch.equal(next(text.parameters()), next(encoders.text.parameters()))
    assert encoders.taken(ComparisonRow("image only", ("image",)))[1] is None
    assert replace(encoders, image=None).modalities == ("text",)


def test_the_digest_covers_weights_options_and_texts():
    digest = encoders_of().digest()
    assert encoders_of().digest() == digest
    words = (word_tokenizer([text]) for text in ("clear lungs", "some effusion"))
    others = [
        *(replace(encoders_of(), tokenizer=tokenizer) for tokenizer in words),
        encoders_of(seed=1),
        replace(encoders_of(), max_length=7),
        replace(encoders_of(), image=None),
    ]
    unfrozen = encoders_of()
    unfrozen.image.unfreeze()
    digests = {one.digest() for one in [*others, unfrozen]}
    assert len(digests) == 6 and digest not in digests
