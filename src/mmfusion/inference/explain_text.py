"""What the words of one sample's text say for a class, and the sample without some of them."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..model.encoder_text import TextEncoder
from ..model.validation import check_choice
from .explain_gradients import STEPS, Inputs, Scorer, shares_of_way
from .explain_words import Reading

WORD_METHODS = ("auto", "gradient_x_input", "integrated_gradients", "occlusion")
"""The ways in which words get their weights."""

_ROWS = 32
"""The most samples of a batch."""


def word_weights(
    scorer: Scorer, inputs: Inputs, reading: Reading, method: str
) -> tuple[Float[Tensor, " words"] | None, str]:
    """Returns what each word adds to the log-odds of a class, and the method.

    | method | weight of a word |
    | --- | --- |
    | `gradient_x_input` | sum over its tokens of embedding x gradient |
    | `integrated_gradients` | the same with the gradient's mean on the way from zero embeddings |
    | `occlusion` | what the log-odds lose where the tokens of the word are left out |

    Args:
        scorer: gives the log-odds of the class.
        inputs: of one sample, which has a text.
        reading: which token belongs to which word.
        method: one of `WORD_METHODS`; "auto" is "integrated_gradients" where it is possible, and
            "occlusion" elsewhere.

    Returns:
        None in the place of the weights if the method is not possible.

    Raises:
        ValueError: for another method.
    """
    check_choice("words", method, WORD_METHODS)
    if method != "occlusion":
        kind = "integrated_gradients" if method == "auto" else method
        steps = 1 if kind == "gradient_x_input" else STEPS
        tokens = token_weights(scorer, inputs, steps=steps)
        if tokens is not None:
            return reading.of_words(tokens), kind
        if method != "auto":
            return None, kind
    return _occlusion(scorer, inputs, reading), "occlusion"


def windows_of(inputs: Inputs) -> list[list[int]]:
    """Returns the real token ids of one sample's text, window by window.

    Args:
        inputs: `input_ids` and `attention_mask` [1, L], or [1, W, L].
    """
    places = inputs["input_ids"].shape[-1]
    ids, mask = (inputs[name].reshape(-1, places) for name in ("input_ids", "attention_mask"))
    rows = [row[real.bool()].tolist() for row, real in zip(ids, mask, strict=True)]
    return [row for row in rows if row]


def token_weights(scorer: Scorer, inputs: Inputs, *, steps: int) -> Float[Tensor, " tokens"] | None:
    """Returns embedding x gradient of each real token of one sample's text, window by window.

    With one step this is gradient x input. With several it is the integral of the gradient on the
    way from embeddings of zero to the own ones (integrated gradients).

    Args:
        scorer: gives the score.
        inputs: of one sample, which has a text.
        steps: points on the way, at least 1.

    Returns:
        one number per real token, or None where no layer of the text encoder is an embedding that
        reads token ids.

    Source: Sundararajan et al. 2017, Axiomatic Attribution for Deep Networks (arXiv 1703.01365),
    eq. 1 and 3.
    """
    encoder, windows = scorer.model.text_encoder, windows_of(inputs)
    assert encoder is not None
    total: Tensor | float = 0.0
    for share in shares_of_way(steps):
        with watched_embeddings(encoder, windows[0], share) as kept:
            score = scorer(inputs).sum()
        if not kept:
            return None
        leaf = kept[0]
        (gradient,) = torch.autograd.grad(score, [leaf])
        products = (leaf.detach().float() / share * gradient.float()).sum(-1)
        total = total + products / steps
    assert isinstance(total, Tensor)
    return _of_real_tokens(total, [len(window) for window in windows])


def _of_real_tokens(values: Tensor, lengths: Sequence[int]) -> Tensor:
    """Returns the values of the real tokens, from a packed row or from rows with padding."""
    if values.numel() == sum(lengths):
        return values.flatten()
    rows = values.reshape(-1, values.shape[-1])
    return torch.cat([row[:length] for row, length in zip(rows, lengths, strict=False)])


@contextmanager
def watched_embeddings(
    encoder: TextEncoder, ids: Sequence[int], share: float = 1.0
) -> Iterator[list[Tensor]]:
    """Yields a list to which a forward pass appends the token embeddings, as autograd's leaves.

    Inside the block the encoder goes on with these embeddings. They have no connection to the
    parameters, so frozen encoders have gradients too.

    Args:
        encoder: a text encoder.
        ids: the real token ids of the first window, which tell the embedding of tokens from those
            of positions and types.
        share: what the embeddings are multiplied with.
    """
    kept: list[Tensor] = []

    def replace(module: Any, inputs: Any, output: Tensor) -> Tensor | None:
        given = inputs[0] if inputs else None
        if kept or given is None or given.flatten()[: len(ids)].tolist() != list(ids):
            return None
        kept.append((output.detach() * share).requires_grad_(True))
        return kept[0]

    with ExitStack() as stack:
        for module in encoder.backbone.modules():
            if isinstance(module, nn.Embedding):
                stack.callback(module.register_forward_hook(replace).remove)
        yield kept


def _occlusion(scorer: Scorer, inputs: Inputs, reading: Reading) -> Tensor:
    """Returns what the score loses where each word is left out."""
    words = len(reading.words)
    kept = ~torch.eye(words, dtype=torch.bool)
    with torch.no_grad():
        whole = scorer(inputs)
        rest = [
            scorer(without_words(inputs, reading, rows)) for rows in kept.split(_ROWS) if len(rows)
        ]
    return whole - torch.cat(rest) if rest else whole.new_zeros(0)


def without_words(inputs: Inputs, reading: Reading, kept: Bool[Tensor, "K words"]) -> Inputs:
    """Returns the inputs of K samples, which are one sample without some of its words.

    The tokens of a word that is left out leave the attention mask, so the text is what it would be
    without the word. Special tokens stay.

    Args:
        inputs: of one sample.
        reading: which token belongs to which word.
        kept: False where a word is left out.
    """
    rows = len(kept)
    repeated = {name: value.expand(rows, *value.shape[1:]) for name, value in inputs.items()}
    mask = inputs["attention_mask"]
    owners = torch.tensor(reading.owners, device=mask.device)
    # A column for special tokens, which are numbered -1.
    with_special = torch.cat([kept, torch.ones(rows, 1, dtype=torch.bool)], dim=1).to(mask.device)
    masks = mask.expand(rows, *mask.shape[1:]).clone()
    masks[:, mask[0].bool()] = with_special[:, owners].to(mask.dtype)
    return repeated | {"attention_mask": masks}
