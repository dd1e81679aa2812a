"""What a trace says is what the exits say, wherever and however few positions it is asked about."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import tiny
from offramp import Contrast, DoLa, EarlyExit, FixedExit, attach_exits
from offramp.blocks.projections import add_gate_
from offramp.decoding.calibrated import Calibrated, CalibratedExit
from offramp.errors import ConfigError, ExitNotFoundError, InputError
from offramp.logits.contrast import contrast_logits, plausible_set
from offramp.trace import reading

L = tiny.DEPTH
TEXT = tiny.prompt(tiny.model_of("llama"), rows=1, length=12)["input_ids"]
near = pytest.approx


@pytest.fixture(scope="module")
def model():
    """A Llama in float64 with exits of four kinds."""
    model = tiny.model_of("llama").double()
    for exit, kind in ((1, "lens"), (2, "head"), (3, "block"), (L, "direct")):
        attach_exits(model, (exit,), kind)
    return model


def log_p(model, exit):
    """The whole table of one exit, [T, V]."""
    return model.exit_logits(TEXT, exits=(exit,))[exit][0].detach().log_softmax(-1)


@pytest.mark.parametrize("exit", [0, 1, 2, 3, L, "original"])
def test_every_exit_says_what_exit_logits_says(model, exit):
    table, last = log_p(model, exit), log_p(model, "original")

    trace = model.trace(TEXT, exits=(exit,), top=3)

    best = table.topk(3, dim=-1)
    for place, position in enumerate(trace.positions):
        said = position.said[0]
        assert said.exit == exit
        assert [each.token.id for each in said.top] == best.indices[place].tolist()
        shares = best.values[place].exp().tolist()
        assert [each.probability for each in said.top] == near(shares, rel=1e-5)
        p = table[place].exp()
        assert said.entropy == near(-float((p * table[place]).sum()), rel=1e-5)
        apart = float((last[place].exp() * (last[place] - table[place])).sum())
        assert said.divergence == near(apart, rel=1e-4, abs=1e-9)
        assert said.agrees == (int(p.argmax()) == int(last[place].argmax()))


def test_a_position_knows_its_token_and_is_asked_for_the_next_one(model):
    trace = model.trace(TEXT, exits=(2,))

    ids, table = TEXT[0].tolist(), log_p(model, 2).exp()
    assert [each.token.id for each in trace.positions] == ids
    assert [each.target and each.target.id for each in trace.positions] == [*ids[1:], None]
    wanted = [each.said[0].target for each in trace.positions[:-1]]
    assert wanted == near([float(table[n, each]) for n, each in enumerate(ids[1:])], rel=1e-5)
    assert trace.positions[-1].said[0].target is None


windows = st.one_of(
    st.integers(0, 14),
    st.builds(slice, st.integers(0, 5), st.integers(6, 12), st.integers(1, 3)),
    st.sets(st.integers(-12, 11), min_size=1).map(list),
)


@given(window=windows, chunk=st.integers(1, 13), rule=st.sampled_from([None, Contrast(lower=1)]))
def test_a_window_in_any_chunks_is_the_same_positions_of_the_whole(model, window, chunk, rule):
    whole = model.trace(TEXT, top=2, decoding=rule)
    before = reading.Asked.__dataclass_fields__["chunk"].default
    assert before > len(TEXT[0])  # else the whole would be in chunks itself

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading.Asked.__init__, "__kwdefaults__", {"left": None, "chunk": chunk})
        part = model.trace(TEXT, top=2, decoding=rule, positions=window)

    known = {each.index: each for each in whole.positions}
    assert part.length == 12
    for each in part.positions:
        assert_close(each, known[each.index])


def assert_close(one, other):
    """The same but for the last digit, which the size of a product may change."""
    first, second = flat(one), flat(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert second[name] == (near(value, rel=2e-5, abs=1e-9) if is_number(value) else value)


def is_number(value):
    return isinstance(value, float)


def flat(value, path=""):
    if hasattr(value, "__dataclass_fields__"):
        value = {name: getattr(value, name) for name in value.__dataclass_fields__}
    if isinstance(value, tuple):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {path: value}
    return {k: v for name, each in value.items() for k, v in flat(each, f"{path}.{name}").items()}


@given(st.lists(st.integers(0, tiny.VOCAB - 1), min_size=1, max_size=9))
def test_the_last_layer_agrees_with_itself_and_does_not_diverge(model, ids):
    trace = model.trace(ids)

    assert [each.exit for each in trace.exits] == [1, 2, 3, "original"]
    for position in trace.positions:
        assert (position.said[-1].divergence, position.said[-1].agrees) == (0.0, True)
        assert all(said.divergence >= 0 for said in position.said)


def test_padding_changes_nothing(model):
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), TEXT], dim=1)

    trace = model.trace(padded, attention_mask=torch.tensor([[0] * 3 + [1] * 12]))

    assert trace == model.trace(TEXT)


def test_a_model_in_training_is_given_back_in_training(model):
    model.train()
    trace = model.trace(TEXT)

    assert model.training
    model.eval()
    assert trace == model.trace(TEXT)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that was made."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for each in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(each, torch.Tensor):
                self.size = max(self.size, each.numel())
        return made


def test_no_table_of_more_than_a_chunk_of_positions_is_made():
    model = attach_exits(tiny.model_of("llama", vocab_size=5000), (1, 2, 3), "direct")
    ids = torch.arange(3, 63)[None]

    with Largest() as largest:
        model.trace(ids, decoding=Contrast(lower=1))

    assert 20 * 5000 < largest.size <= reading.CHUNK * 5000 < 60 * 5000


def test_only_the_exits_asked_for_are_computed(model):
    asked = []
    hooks = [
        model.exits["2"].linear.register_forward_hook(lambda *_: asked.append(2)),
        model.exits["1"].linear.register_forward_hook(lambda *_: asked.append(1)),
        model.exits["3"].block.register_forward_hook(lambda *_: asked.append(3)),
    ]

    model.trace(TEXT, exits=(2,))

    for hook in hooks:
        hook.remove()
    assert set(asked) == {2}


def test_contrast_shows_the_plausible_set_and_what_it_did(model):
    rule = Contrast(upper=3, lower=1, alpha=0.3)
    upper, lower = (log_p(model, exit) for exit in (3, 1))
    after = contrast_logits(upper, lower, alpha=0.3).exp()
    chosen = plausible_set(upper, alpha=0.3, minimum_candidates=1)

    trace = model.trace(TEXT, exits=(), decoding=rule)

    assert trace.decoding == "contrast 3:1 alpha 0.3"
    assert [each.exit for each in trace.exits] == ["original"]
    for place, position in enumerate(trace.positions):
        found = position.changed
        assert {each.token.id for each in found.plausible} == set(
            chosen[place].nonzero()[:, 0].tolist()
        )
        assert found.num_plausible == len(found.plausible)
        assert found.after.token.id == found.plausible[0].token.id == int(after[place].argmax())
        assert found.before.token.id == int(upper[place].argmax())
        assert found.changed == (found.before.token.id != found.after.token.id)
        for each in found.plausible:
            assert each.after == near(float(after[place, each.token.id]), rel=1e-5)
            assert each.before == near(float(upper[place, each.token.id].exp()), rel=1e-5)
    assert any(each.changed.changed for each in trace.positions)


def test_dola_and_one_exit_are_shown_too(model):
    dola = model.trace(TEXT, exits=(), decoding=DoLa(layers=(1, 2)))
    fixed = model.trace(TEXT, exits=(2,), decoding=FixedExit(exit=2))

    assert (dola.decoding, fixed.decoding) == ("dola 1,2", "exit 2")
    assert all(each.changed.divergence < math.inf for each in dola.positions)
    assert all(each.changed.plausible for each in dola.positions)
    for position in fixed.positions:
        assert position.changed.plausible is None
        assert position.changed.after == position.said[0].top[0]
        assert position.changed.before == position.said[1].top[0]


@pytest.mark.parametrize(
    "calibrated", [{}, {1: 0.9, 2: 0.8, 3: 0.7}, {1: 0.9, 3: 0.7}], ids=["none", "all", "some"]
)
def test_a_gate_says_what_early_exit_would_do(calibrated):
    model = attach_exits(tiny.model_of("llama"), (1, 2, 3), "direct")
    for exit in (1, 2, 3):
        add_gate_(model.exits[str(exit)], model.anatomy, exit)
    generator = torch.Generator().manual_seed(1)
    for exit in (1, 2, 3):
        gate = model.exits[str(exit)].gate
        with torch.no_grad():
            gate.linear.weight.normal_(0, 0.5, generator=generator)
            gate.threshold.fill_(0.8)
    if calibrated:
        found = CalibratedExit(rule="gate", bound=0.1, confidence=0.9, thresholds=calibrated)
        model.calibration = Calibrated(exits_hash="", early_exit=(found,))
    prompt = TEXT[:, :4]

    written = model.generate(
        prompt,
        decoding=EarlyExit(),
        max_new_tokens=20,
        eos_token_id=None,
        return_dict_in_generate=True,
    )
    trace = model.trace(written.sequences)

    expected = []
    for position in trace.positions[4:-1]:
        leaves = [said.exit for said in position.said[:-1] if said.gate.leaves]
        expected.append(min(leaves, default=L))
    assert written.exits[0, 1:].tolist() == expected  # the first is the prompt's, from the top
    assert len(set(expected)) > 1
    thresholds = {said.exit: said.gate.threshold for said in trace.positions[0].said[:-1]}
    never = dict.fromkeys((1, 2, 3), 1.0 if calibrated else 0.8)
    assert thresholds == pytest.approx(never | calibrated)


def test_an_encoder_decoder_has_its_decoder_traced():
    model = attach_exits(tiny.model_of("t5"), (2,), "direct")
    inputs = tiny.prompt(model, rows=1, length=5)

    trace = model.trace(**{"text": inputs["input_ids"], "decoder_input_ids": [[1, 7, 8]]})

    logits = model.exit_logits(
        inputs["input_ids"], exits=(2,), decoder_input_ids=torch.tensor([[1, 7, 8]])
    )
    assert [each.token.id for each in trace.positions] == [1, 7, 8]
    assert [each.id for each in trace.source] == inputs["input_ids"][0].tolist()
    best = logits[2][0].argmax(-1).tolist()
    assert [each.said[0].top[0].token.id for each in trace.positions] == best
    with pytest.raises(InputError, match="decoder_input_ids"):
        model.trace(inputs["input_ids"])


def test_a_text_is_read_by_its_tokenizer(byte_tokenizer):
    model = attach_exits(tiny.model_of("llama", vocab_size=300), (2,), "direct")

    trace = model.trace("a b", tokenizer=byte_tokenizer)

    assert [each.token.text for each in trace.positions] == ["a", " ", "b"]
    assert trace.positions[0].target.text == " "
    unknown = [c.token for p in trace.positions for s in p.said for c in s.top if c.token.id > 258]
    assert all(each.text is None for each in unknown)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"text": "a"}, ConfigError, "tokenizer=tokenizer"),
        ({"text": []}, InputError, "no tokens"),
        ({"text": [[3], [4]]}, InputError, "one text, got 2 rows"),
        ({"text": [3, 61]}, InputError, "61 is no token of this model, which knows 0 to 60"),
        ({"text": torch.tensor([0.5])}, InputError, "0.5 is no token"),
        ({"text": [3] * 65}, InputError, "65 tokens, the model's context 64"),
        ({"exits": (9,)}, ExitNotFoundError, "exit 9 does not exist"),
        ({"exits": (-1,)}, ConfigError, "an exit is a number of blocks"),
        ({"top": 0}, ConfigError, "top must be from 1 to 100"),
        ({"positions": -1}, InputError, r"try \[-1\]"),
        ({"positions": [12]}, InputError, "position 12 does not exist: there are 12"),
        ({"positions": slice(12, 20)}, InputError, "no position is left"),
        ({"positions": []}, InputError, "no position is left"),
        ({"decoding": EarlyExit(rule="top_gap", threshold=0.5)}, ConfigError, "got EarlyExit"),
        ({"decoding": "contrast"}, ConfigError, "got str"),
        ({"decoding": Contrast(lower=0)}, ExitNotFoundError, "exit 0 is not attached"),
        ({"attention_mask": [1]}, InputError, "must mark some of the 12"),
    ],
)
def test_what_cannot_be_traced_is_refused(model, options, error, words):
    with pytest.raises(error, match=words):
        model.trace(**{"text": TEXT, **options})


def test_an_exit_that_gives_nan_is_named():
    model = attach_exits(tiny.model_of("llama"), (2,), "lens")
    with torch.no_grad():
        model.exits["2"].linear.bias.fill_(torch.nan)

    with pytest.raises(ConfigError, match="exit 2 gives NaN"):
        model.trace(TEXT)


def test_more_best_tokens_than_the_vocabulary_has_are_all_of_them(model):
    said = model.trace([3], top=100).positions[0].said[0]

    assert len(said.top) == tiny.VOCAB
    assert sum(each.probability for each in said.top) == near(1, rel=1e-4)


def test_a_default_decoding_is_shown_unless_another_one_is_named(model):
    model.default_decoding = Contrast(lower=1)
    try:
        shown = model.trace(TEXT, exits=())
        other = model.trace(TEXT, exits=(), decoding=FixedExit(exit="original"))
    finally:
        model.default_decoding = None

    assert shown.decoding == "contrast original:1 alpha 0.1"
    assert not any(each.changed.changed for each in other.positions)
    assert model.trace(TEXT, exits=()).positions[0].changed is None
