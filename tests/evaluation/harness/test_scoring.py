"""A text that is given is scored as generation scores it while it writes the same text."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny
from evaluation.test_recording import gated
from offramp import Contrast, DoLa, EarlyExit, FixedExit
from offramp.errors import ConfigError
from offramp.evaluation.harness.requests import asked, batches
from offramp.evaluation.harness.scoring import Scorer

PROMPT, NEW = 4, 9
EARLY = (
    EarlyExit(rule="gate", threshold=0.6),
    EarlyExit(rule="top_probability", threshold=0.3),
    EarlyExit(rule="top_gap", threshold={1: 0.4, 2: 0.2, 3: 0.1}, lower=2),
    EarlyExit(rule="entropy", threshold=0.05, min_exit=2),
    EarlyExit(rule="saturation", threshold=0.7, exits=(1, 3), lower=2),
    EarlyExit(rule="patience", threshold=2),
    EarlyExit(rule="fixed", exits=(2,)),
    EarlyExit(rule="schedule", schedule=((0, 3), (4, 1))),
)
RULES = (
    None,
    FixedExit(exit=2),
    FixedExit(exit="original"),
    Contrast(lower=1),
    Contrast(upper=3, lower=1, alpha=0.3),
    DoLa(layers=(1, 2, 3), relative_top=0.01),
    *EARLY,
)


class Forcing:
    """Notes the scores of each step, and lets only the next token of a text be written."""

    def __init__(self, text):
        self.text, self.seen = text, []

    def __call__(self, input_ids, scores):
        self.seen.append(scores[0].double().log_softmax(-1))
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self.text[input_ids.shape[1]]] = 0.0
        return forced


def written(model, text, rule):
    """Make ``generate`` write a text; give the log-probability of each token and the best ones."""
    forcing = Forcing(text)
    model.generate(
        torch.tensor([text[:PROMPT]]),
        decoding=rule,
        logits_processor=[forcing],
        max_new_tokens=NEW,
        do_sample=False,
        eos_token_id=None,
    )
    new = text[PROMPT:]
    best = [int(row.argmax()) for row in forcing.seen]
    return [float(row[token]) for row, token in zip(forcing.seen, new, strict=True)], best


def scored(scorer, texts, *, size=1, prompt=PROMPT):
    """Score the ends of some texts."""
    requests = [asked(text[:prompt], text[prompt:], longest=64) for text in texts]
    found = {}
    for batch in batches(requests, size):
        tokens = batch.tokens.masked_fill(batch.tokens == 0, -1)
        result = scorer.score(batch.ids, batch.places, tokens=tokens)
        found |= {number: log_p for number, log_p, _ in batch.answers(result)}
    return [found[number] for number in range(len(texts))]


def some_texts(count, *, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, tiny.VOCAB, (count, PROMPT + NEW), generator=generator).tolist()


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_scores_are_those_that_generation_sees(family, rule):
    model = gated(family)
    (text,) = some_texts(1)

    seen, _ = written(model, text, rule)

    (ours,) = scored(Scorer(model, rule), [text])
    torch.testing.assert_close(ours, torch.tensor(seen).double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", EARLY, ids=str)
def test_early_exit_does_leave_early_in_these_tests(rule):
    """Else the test above would compare the last layer with itself."""
    model = gated()
    (text,) = some_texts(1)

    whole, early = (scored(Scorer(model, each), [text])[0] for each in (None, rule))

    assert whole[0] == pytest.approx(float(early[0]), abs=1e-5)
    assert (whole[1:] - early[1:]).abs().max() > 1e-3


def test_the_greedy_token_is_the_one_that_is_written():
    model = gated()
    (text,) = some_texts(1)
    _, best = written(model, text, Contrast(lower=1))
    changed = [*text[:PROMPT], *best]
    scorer = Scorer(model, Contrast(lower=1))

    flags = []
    for place in range(NEW):
        request = asked(text[: PROMPT + place], [changed[PROMPT + place]], longest=64)
        (batch,) = batches([request], 1)
        flags.append(bool(scorer.score(batch.ids, batch.places, tokens=batch.tokens).greedy))

    assert flags == [True] * NEW


@given(
    rule=st.sampled_from((FixedExit(exit=2), Contrast(lower=1), EARLY[0], EARLY[5])),
    size=st.integers(1, 5),
    chunk=st.integers(1, 30),
    lengths=st.lists(st.integers(PROMPT + 1, PROMPT + NEW), min_size=1, max_size=4),
)
def test_batches_padding_and_chunks_change_nothing(rule, size, chunk, lengths):
    model = MODELS.setdefault("model", gated())
    texts = [text[:n] for text, n in zip(some_texts(len(lengths)), lengths, strict=True)]
    alone = [scored(Scorer(model, rule), [text])[0] for text in texts]

    together = scored(Scorer(model, rule, chunk=chunk), texts, size=size)

    for ours, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


MODELS = {}


def test_blocks_above_the_only_exit_do_not_run_and_heads_see_one_chunk(monkeypatch):
    model = gated()
    ran, rows = [], []
    for number, block in enumerate(model.anatomy.blocks):
        plain = block.forward
        block.forward = lambda *a, n=number, f=plain, **k: (ran.append(n), f(*a, **k))[1]
    model.anatomy.head.register_forward_hook(lambda _, args, __: rows.append(args[0].numel() // 32))

    scored(Scorer(model, FixedExit(exit=2), chunk=4), some_texts(3), size=3)

    assert set(ran) == {0, 1}
    assert max(rows) <= 4


def test_copied_states_are_refused():
    with pytest.raises(ConfigError, match="token by token"):
        Scorer(gated(), EarlyExit(rule="top_gap", threshold=0.5, cache="copy"))
