"""Packed texts, which are encoded without padding.

Each text must have the same values and gradients as in a padded batch. Packing must be chosen only
where it saves time.
"""

import copy
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import (
    CamembertConfig,
    ElectraConfig,
    PreTrainedConfig,
    XLMRobertaConfig,
)

from mmfusion import FusionClassifier, TextEncoder
from mmfusion import testing as kit
from mmfusion.model.packed_attention import (
    PACKED_ATTENTION,
)
from mmfusion.model.packing import (
    SMALLEST_GROUP,
    WORTH_PACKING,
    Packing,
    groups_by_length,
    token_by_token,
    ungrouped,
)

WIDTHS = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 40,
}
LENGTHS = [20, 3, 1, 11, 20, 7]
TOLERANCE = 1e-5


def configs() -> dict[str, PreTrainedConfig]:
    modern = {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
        "pad_token_id": 0,
        "max_position_embeddings": 8192,
    }
    return {
        "bert": kit.tiny_config("bert", **WIDTHS),
        "roberta": kit.tiny_config("roberta", **WIDTHS),
        "xlm-roberta": XLMRobertaConfig(**WIDTHS),
        "camembert": CamembertConfig(**{**WIDTHS, "pad_token_id": 1}),
        "distilbert": kit.tiny_config("distilbert", **WIDTHS),
        # Every second layer sees 4 tokens to either side. The longer texts are longer than that.
        "modernbert": kit.tiny_config(
            "modernbert", **WIDTHS, **modern, local_attention=8, global_attn_every_n_layers=2
        ),
    }


KINDS = sorted(configs())


def batch(lengths: list[int], *, width: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    ids = torch.randint(
        4, 40, (len(lengths), width or max(lengths)), generator=torch.Generator().manual_seed(seed)
    )
    return ids, torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]


def encoder(kind: str, padding: str, **options: Any) -> TextEncoder:
    made = TextEncoder(configs()[kind], padding=padding, **options)
    kit.redraw_parameters(made, 0)
    return made.eval()


def apart(found: Tensor, expected: Tensor, mask: Tensor) -> float:
    return float((found - expected)[mask].detach().abs().max())


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_texts_are_what_each_text_is_alone(kind: str, side: str) -> None:
    ids, mask = batch(LENGTHS)
    if side == "left":
        ids, mask = ids.flip(1), mask.flip(1)
    packed = encoder(kind, "packed")
    together = packed(ids, mask)
    alone = encoder(kind, "padded")
    for row, length in enumerate(LENGTHS):
        single = alone(ids[row, mask[row]][None])
        torch.testing.assert_close(
            together.tokens[row, :length], single.tokens[0], atol=TOLERANCE, rtol=0
        )
        torch.testing.assert_close(together.pooled[row], single.pooled[0], atol=TOLERANCE, rtol=0)
    assert not together.tokens[~together.mask].any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_backbone_computes_the_real_tokens_alone(kind: str) -> None:
    packed = encoder(kind, "packed")
    rows: list[int] = []
    for module in packed.backbone.modules():
        if isinstance(module, (nn.Linear, nn.LayerNorm)):
            module.register_forward_hook(
                lambda _, inputs, __: rows.append(inputs[0].shape[:-1].numel())
            )
    packed(*batch(LENGTHS, width=40))
    assert len(rows) > 3 and set(rows) == {sum(LENGTHS)}


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_padded_batch(kind: str) -> None:
    ids, mask = batch(LENGTHS)
    gradients = {}
    for padding in ("padded", "packed"):
        made = encoder(kind, padding)
        encoded = made(ids, mask)
        (encoded.pooled.sin().sum() + encoded.tokens[encoded.mask].cos().sum()).backward()
        gradients[padding] = {
            name: p.grad for name, p in made.named_parameters() if p.grad is not None
        }
    assert gradients["padded"].keys() == gradients["packed"].keys() != set()
    for name, gradient in gradients["padded"].items():
        torch.testing.assert_close(
            gradients["packed"][name],
            gradient,
            atol=1e-4,
            rtol=1e-4,
            msg=lambda text, n=name: f"{n}: {text}",
        )


@pytest.mark.parametrize("kind", KINDS)
def test_walking_packed_blocks_is_walking_padded_ones(kind: str) -> None:
    padded, packed = encoder(kind, "padded"), encoder(kind, "packed")
    ids, mask = batch(LENGTHS)
    start = padded.embed(ids, mask)
    middle = packed.walk(1, 3, padded.walk(0, 1, start))
    expected = padded.walk(0, 3, start)
    assert apart(middle.values, expected.values, mask) < TOLERANCE
    assert packed.walk(1, 1, start) is start


def test_attention_dropout_on_packed_texts_drops_and_repeats() -> None:
    ids, mask = batch(LENGTHS)
    packed = encoder(
        "bert", "packed", attention_probs_dropout_prob=0.5, hidden_dropout_prob=0.0
    ).train()
    answers = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        answers.append(packed(ids, mask).pooled)
    assert torch.equal(answers[0], answers[1]) and not torch.allclose(
        answers[0], answers[2], atol=1e-3
    )
    assert not torch.allclose(answers[0], packed.eval()(ids, mask).pooled, atol=1e-3)


# transformers 5 renames this method, but the oldest version allowed here has only the old name.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_:FutureWarning")
def test_gradient_checkpointing_on_packed_texts() -> None:
    ids, mask = batch(LENGTHS)
    gradients = []
    runs: list[int] = []
    for recompute in (False, True):
        packed = encoder(
            "bert", "packed", attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0
        ).train()
        if recompute:
            packed.backbone.gradient_checkpointing_enable()
        first = packed.backbone.encoder.layer[0].attention
        first.register_forward_hook(lambda *_: runs.append(1))
        packed(ids, mask).pooled.sin().sum().backward()
        gradients.append([p.grad for p in packed.parameters()])
    assert len(runs) == 1 + 2
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain, atol=1e-6, rtol=1e-5)


def test_lora_on_packed_texts() -> None:
    # Double precision: random adapters are large, and magnify the rounding errors of float32.
    ids, mask = batch(LENGTHS)
    adapted = encoder("roberta", "packed").add_lora(r=2).double()
    kit.redraw_parameters(adapted, 1)
    found = adapted(ids, mask).pooled
    adapted.padding = "padded"
    torch.testing.assert_close(found, adapted(ids, mask).pooled, atol=1e-10, rtol=0)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(0, 5), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_packing_and_unpacking_by_hypothesis(lengths: list[int], extra: int, seed: int) -> None:
    ids, mask = batch(lengths, width=max(lengths) + extra, seed=seed)
    packing = Packing(mask)
    values = torch.randn(*ids.shape, 2, 3, generator=torch.Generator().manual_seed(seed))
    row = packing.pack(values)
    assert row.shape == (1, sum(lengths), 2, 3) and packing.lengths == lengths
    by_hand = torch.cat([values[i, :n] for i, n in enumerate(lengths)])
    assert torch.equal(row[0], by_hand)
    assert torch.equal(packing.unpack(row), torch.where(mask[..., None, None], values, 0.0))
    assert packing.positions[0].tolist() == [place for n in lengths for place in range(n)]
    assert packing.cu_seqlens.tolist() == [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    assert packing.share == pytest.approx(mask.float().mean().item())


@given(st.lists(st.integers(0, 30), min_size=1, max_size=24), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_groups_hold_every_sample_once_and_all_its_tokens(lengths: list[int], extra: int) -> None:
    _, mask = batch(lengths, width=max(lengths) + extra + 1)
    groups = groups_by_length(mask)
    rows = [torch.arange(len(lengths))[chosen] for chosen, _ in groups]
    assert sorted(torch.cat(rows).tolist()) == list(range(len(lengths)))
    for chosen, (_, places) in zip(rows, groups, strict=True):
        assert max(lengths[row] for row in chosen) <= places <= mask.shape[1]
        assert len(groups) == 1 or (
            len(chosen) >= SMALLEST_GROUP and places == max(1, *(lengths[row] for row in chosen))
        )
    computed = sum(len(chosen) * places for chosen, (_, places) in zip(rows, groups, strict=True))
    assert len(groups) == 1 or computed < WORTH_PACKING * mask.numel()
    numbers = [chosen.float()[:, None] for chosen in rows]
    assert torch.equal(ungrouped(groups, numbers).flatten(), torch.arange(len(lengths)).float())


def test_a_batch_of_like_lengths_or_of_few_samples_is_one_group() -> None:
    for lengths in ([9] * 16, [20, 1, 1, 1, 1, 1, 1]):
        _, mask = batch(lengths)
        assert groups_by_length(mask) == [(slice(None), max(lengths))]
    assert len(groups_by_length(batch([20, 1, 1, 1, 1, 1, 1, 1])[1])) == 2


def test_processes_that_wait_for_each_other_take_whole_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, mask = batch([20, *[1] * 15])
    assert len(groups_by_length(mask)) == 4
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    for processes, groups in ((1, 4), (2, 1)):
        monkeypatch.setattr(
            "torch.distributed.get_world_size", lambda processes=processes: processes
        )
        assert len(groups_by_length(mask)) == groups


def test_token_by_token_computes_the_real_tokens_alone() -> None:
    seen: list[Tensor] = []
    layer = nn.Linear(3, 2)

    def run(tokens: Tensor) -> Tensor:
        seen.append(tokens)
        return layer(tokens)

    ids, mask = batch([6, 1, 2])
    tokens = torch.randn(*ids.shape, 3)
    found = token_by_token(run, tokens, mask)
    torch.testing.assert_close(found, torch.where(mask[..., None], layer(tokens), 0.0))
    assert seen[0].shape == (1, 9, 3)
    # Without padding, or without any real token, the padded batch is computed as it is.
    for full in (torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.bool)):
        assert token_by_token(run, tokens[:2, :3], full).shape == (2, 3, 2)
    assert [values.shape[0] for values in seen[1:]] == [2, 2]


@pytest.mark.parametrize(
    ("lengths", "packs"), [([20, 20, 19], False), ([20, 5, 19], True), ([20], False)]
)
def test_auto_packs_where_it_pays(lengths: list[int], packs: bool) -> None:
    automatic = encoder("bert", "auto")
    seen: list[int] = []
    automatic.backbone.encoder.layer[0].register_forward_hook(
        lambda _, inputs, __: seen.append(len(inputs[0]))
    )
    automatic(*batch(lengths))
    assert seen == [1 if packs else len(lengths)]


@pytest.mark.parametrize("kind", ["mpnet", "electra", "eager", "decoder"])
def test_what_cannot_pack_stays_padded_and_says_so(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    options = {
        "mpnet": kit.tiny_config("mpnet", **WIDTHS),
        "electra": ElectraConfig(**WIDTHS, embedding_size=16),
        "eager": kit.tiny_config("bert", **WIDTHS),
    }
    options["decoder"] = kit.tiny_config("bert", **WIDTHS, is_decoder=True)
    config = options[kind]
    if kind == "eager":
        config._attn_implementation = "eager"
    made = TextEncoder(config).eval()
    expected = made(*batch(LENGTHS))
    logger = logging.getLogger("mmfusion.model.encoder_image")
    logger.addHandler(caplog.handler)
    made.padding = "packed"
    logger.removeHandler(caplog.handler)
    assert (
        "cannot compute packed texts" in caplog.text and type(made.backbone).__name__ in caplog.text
    )
    assert torch.equal(made(*batch(LENGTHS)).pooled, expected.pooled)


def test_the_attention_that_a_user_sets_later_is_kept() -> None:
    made = encoder("bert", "packed")
    expected = made(*batch(LENGTHS)).pooled
    assert made.backbone.config._attn_implementation == PACKED_ATTENTION
    made.backbone.set_attn_implementation("eager")
    torch.testing.assert_close(made(*batch(LENGTHS)).pooled, expected, atol=TOLERANCE, rtol=0)
    assert made.backbone.config._attn_implementation == "eager"


def test_packing_leaves_no_trace_in_configs(tmp_path: Path) -> None:
    mine = kit.tiny_config("bert", **WIDTHS)
    before = mine.to_json_string()
    model = FusionClassifier(
        text_encoder=TextEncoder(mine, padding="packed", hidden_dropout_prob=0.0)
    ).eval()
    ids, mask = batch(LENGTHS)
    expected = model(input_ids=ids, attention_mask=mask).logits
    assert mine.to_json_string() == before and mine._attn_implementation != PACKED_ATTENTION
    model.save_pretrained(tmp_path)
    assert PACKED_ATTENTION not in (tmp_path / "config.json").read_text()
    assert json.loads((tmp_path / "config.json").read_text())["text_encoder"]["padding"] == "packed"
    again = FusionClassifier.from_pretrained(tmp_path)
    assert again.text_encoder.padding == "packed"
    assert torch.equal(again(input_ids=ids, attention_mask=mask).logits, expected)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied(input_ids=ids, attention_mask=mask).logits, expected)


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
@torch.no_grad()
def test_a_compiled_graph_stays_padded_unless_it_is_asked_to_pack(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = encoder(kind, "packed")
    expected = made(*batch(LENGTHS)).pooled
    seen: list[tuple[int, ...]] = []
    first = made.backbone.layers[0] if kind == "modernbert" else made.backbone.encoder.layer[0]
    first.register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape[:2])))
    monkeypatch.setattr("torch.compiler.is_compiling", lambda: True)
    for _ in range(2):
        torch.testing.assert_close(made(*batch(LENGTHS)).pooled, expected, atol=TOLERANCE, rtol=0)
        made.pack_in_graphs()
    # A single text is not packed, because a graph must be sure of at least two tokens.
    made(*batch([3], width=5))
    made.padding = "padded"
    made(*batch(LENGTHS))
    padded = (len(LENGTHS), max(LENGTHS))
    assert seen == [padded, (1, sum(LENGTHS)), (1, 5), padded]
    assert not encoder("bert", "padded").pack_in_graphs()._packs_in_graphs
    made.padding = "packed"
    made.pack_in_graphs(False)(*batch(LENGTHS))
    assert seen[4:] == [padded]


@pytest.mark.cuda
@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="the variable-length kernel runs on CUDA alone"
)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_cuda_packed_is_padded(kind: str, dtype: torch.dtype) -> None:
    ids, mask = (value.cuda() for value in batch(LENGTHS))
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    found = {}
    for padding in ("padded", "packed"):
        made = encoder(kind, padding).cuda().to(dtype)
        pooled = made(ids, mask).pooled
        pooled.float().sin().sum().backward()
        found[padding] = [
            pooled.detach(),
            *(p.grad for p in made.parameters() if p.grad is not None),
        ]
    for packed, padded in zip(found["packed"], found["padded"], strict=True):
        torch.testing.assert_close(packed, padded, atol=tolerance, rtol=tolerance)


def test_padding_must_be_known() -> None:
    with pytest.raises(ValueError, match="padding must be one of .*'packt'.*Did you mean 'packed'"):
        TextEncoder(kit.tiny_config("bert", **WIDTHS), padding="packt")
