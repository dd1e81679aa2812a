"""What is recorded is what early exit sees and does."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny
from evaluation.test_exits import padded, texts
from offramp import EarlyExit, attach_exits
from offramp.blocks.projections import add_gate_
from offramp.errors import ConfigError, ExitNotFoundError, InputError
from offramp.evaluation.recording import RECORDED_RULES, record, recorded_exits
from offramp.evaluation.replay import Ladder, replay

L = tiny.DEPTH
NEW = 12
THRESHOLDS = {
    "gate": 0.6,
    "top_probability": 0.3,
    "top_gap": 0.2,
    "entropy": 0.3,
    "saturation": 0.7,
}


def gated(family="llama", projection="lens", exits=(1, 2, 3)):
    model = attach_exits(tiny.model_of(family), exits, projection)
    generator = torch.Generator().manual_seed(4)
    for exit in exits:
        gate = add_gate_(model.exits[str(exit)], model.anatomy, exit)
        torch.nn.init.normal_(gate.linear.weight, std=0.5, generator=generator)
    return model


@pytest.fixture(scope="module")
def model():
    """A Llama with gates, and exits of which one is of another kind."""
    model = gated()
    attach_exits(model, (2,), "cast")
    gate = add_gate_(model.exits["2"], model.anatomy, 2)
    torch.nn.init.normal_(gate.linear.weight, std=0.5)
    return model


@pytest.mark.parametrize("rule", RECORDED_RULES)
def test_a_written_text_leaves_where_the_record_says(rule):
    """The law: replay a text that early exit wrote, and find its exits and its blocks."""
    model, threshold = gated(), THRESHOLDS[rule]
    ids = torch.randint(3, tiny.VOCAB, (1, 6), generator=torch.Generator().manual_seed(5))
    written = model.generate(
        ids,
        decoding=EarlyExit(rule=rule, threshold=threshold),
        max_new_tokens=NEW,
        do_sample=False,
        eos_token_id=None,
        return_dict_in_generate=True,
    )
    labels = written.sequences.clone()
    labels[:, :6] = -100
    batch = {
        "input_ids": written.sequences,
        "attention_mask": torch.ones_like(labels),
        "labels": labels,
    }

    (text,) = record(model, [batch], rule=rule)

    sure = text.confidence > threshold
    left = [next((n + 1 for n, yes in enumerate(row) if yes), L) for row in sure.tolist()]
    assert left == written.exits[0].tolist()
    assert left[0] == L
    assert min(left) < L
    knobs = torch.tensor([1.0, threshold])
    played = replay([text], ladder=Ladder(exits=(1, 2, 3), depth=L), thresholds=knobs)
    assert played.blocks[1] == pytest.approx(sum(left) / NEW)


def test_an_exit_agrees_where_its_best_token_is_the_last_layers(model):
    rows = texts((9, 14), masked=0)
    found = record(model, padded(rows), rule="gate")

    for (ids, _), text in zip(rows, found, strict=True):
        logits = model.exit_logits(ids[None], exits=(1, 2, 3, "original"))
        best = {exit: each[0, :-1].argmax(-1) for exit, each in logits.items()}
        agrees = torch.stack([best[exit] == best["original"] for exit in (1, 2, 3)], -1)
        assert torch.equal(text.agrees, agrees)


@given(
    rule=st.sampled_from(RECORDED_RULES),
    size=st.integers(1, 6),
    chunk=st.integers(1, 40),
    extra=st.integers(0, 3),
)
def test_batches_chunks_and_padding_change_nothing(rule, size, chunk, extra):
    model = MODELS.setdefault("model", gated())
    rows = texts()
    reference = record(model, padded(rows, size=1), rule=rule)

    found = record(model, padded(rows, size=size, extra=extra), rule=rule, chunk=chunk)

    assert len(found) == len(reference)
    for ours, theirs in zip(found, reference, strict=True):
        torch.testing.assert_close(ours.confidence, theirs.confidence, rtol=1e-4, atol=1e-5)
        assert torch.equal(ours.agrees, theirs.agrees)


MODELS = {}


def test_only_completions_are_recorded_and_prompts_make_texts():
    model = gated()
    first, second = torch.tensor([5, 6, 7, 8, 9]), torch.tensor([5, 6, 9, 9])
    other = torch.tensor([7, 7, 8])
    rows = []
    for ids in (first, other, second):
        labels = ids.clone()
        labels[:2] = -100
        rows.append((ids, labels))

    found = record(model, padded(rows), rule="top_gap")

    assert [len(text.agrees) for text in found] == [3 + 2, 1]  # two answers to the prompt 5, 6
    assert [text.confidence[0].tolist() for text in found] == [[0.0] * 3] * 2
    assert found[0].confidence[3].tolist() == [0.0] * 3  # where the second answer begins


def test_rows_without_a_prompt_are_texts_of_their_own():
    rows = [(torch.tensor([5, 6, 7]),) * 2] * 3

    assert len(record(gated(), padded(rows), rule="top_gap")) == 3


def test_an_encoder_decoder_is_recorded():
    model = gated("t5", "direct")
    ids = torch.tensor([[5, 6, 7, 0], [8, 9, 6, 7]])
    labels = torch.tensor([[9, 8, 7], [4, 5, -100]])

    found = record(model, [{"input_ids": ids, "attention_mask": (ids > 0) * 1, "labels": labels}])

    assert [tuple(text.agrees.shape) for text in found] == [(3, 3), (2, 3)]


def test_the_model_is_given_back_in_its_own_mode(model):
    model.train()
    record(model, padded(texts()), rule="top_gap")
    assert model.training
    model.eval()


def test_no_table_of_scores_is_larger_than_a_chunk(model):
    rows = []
    hook = model.lm_head.register_forward_hook(
        lambda _, __, scores: rows.append(scores[..., 0].numel())
    )

    record(model, padded(texts()), rule="gate", chunk=5)

    hook.remove()
    assert max(rows) == 5


def test_what_cannot_be_recorded_is_refused(model):
    plain = attach_exits(tiny.model_of("llama"), (2,), "direct")
    bare = attach_exits(tiny.model_of("llama"), (L,), "direct")
    empty = [(torch.tensor([5]), torch.tensor([5]))]

    with pytest.raises(ConfigError, match="no exit of this model has a gate"):
        record(plain, padded(texts()))
    with pytest.raises(ConfigError, match="exit 2 has no gate"):
        record(plain, padded(texts()), exits=(2,))
    with pytest.raises(ConfigError, match="no exit from 0 to 3 may answer; attached: 4"):
        record(bare, padded(texts()), rule="top_gap")
    with pytest.raises(ConfigError, match="no rule 'patience' has a threshold"):
        record(plain, padded(texts()), rule="patience")
    with pytest.raises(ConfigError, match="leave out exit 0"):
        record(plain, padded(texts()), rule="saturation", exits=(0, 2))
    with pytest.raises(ExitNotFoundError, match="exit 9 does not exist"):
        record(plain, padded(texts()), rule="top_gap", exits=(9,))
    with pytest.raises(InputError, match="no token to predict"):
        record(plain, padded(empty), rule="top_gap")
    with pytest.raises(ConfigError, match="chunk must be"):
        record(plain, padded(texts()), rule="top_gap", chunk=0)


def test_gates_are_asked_only_where_there_are_some():
    model = gated(exits=(1, 3))
    attach_exits(model, (2,), "direct")

    assert recorded_exits(model, "gate") == (1, 3)
    assert recorded_exits(model, "top_gap") == (1, 2, 3)


def test_block_exits_are_refused_before_anything_is_recorded():
    model = attach_exits(tiny.model_of("llama"), (1,), "block")
    attach_exits(model, (2,), "lens")

    with pytest.raises(ConfigError, match="'block' exits"):
        recorded_exits(model, "top_gap")
    assert recorded_exits(model, "top_gap", (2,)) == (2,)
