"""Law 5: our loops write what plain decoding writes, with drafts and without."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StopStringCriteria,
    TemperatureLogitsWarper,
    TextStreamer,
)

import tiny
from offramp import (
    Autoregressive,
    Contrast,
    DoLa,
    EarlyExit,
    FixedExit,
    SelfSpeculation,
    attach_exits,
)
from offramp.blocks.anatomy import CHECKED
from offramp.blocks.drafter import Drafter
from offramp.errors import ConfigError, ExitNotFoundError

NEW = 14
TARGETS = [
    None,
    Contrast(lower=1),
    Contrast(upper=3, lower=1),
    FixedExit(exit=3),
    DoLa(layers=(1,)),
]


def model_with_exits(family="llama", projection="lens", **extra):
    model = attach_exits(tiny.model_of(family, **extra), (1, 2, 3), projection)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.exits.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def prompts(model, lengths=(9, 4, 6)):
    generator = torch.Generator().manual_seed(2)
    if model.config.is_encoder_decoder:
        lengths = [max(lengths)] * len(lengths)
    longest = max(lengths)
    ids = torch.zeros(len(lengths), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, longest - length :] = torch.randint(3, tiny.VOCAB, (length,), generator=generator)
        mask[row, longest - length :] = 1
    return {"input_ids": ids, "attention_mask": mask}


def told(model, inputs, decoding=None, **options):
    options = {"max_new_tokens": NEW, "do_sample": False, **options}
    return model.generate(**inputs, decoding=decoding, **options).tolist()


def with_drafter(model, *, tokens=20):
    width = model.config.hidden_size
    torch.manual_seed(3)
    model.drafter = Drafter(width=width, hidden=16, num_tokens=tokens)
    model.drafter.tokens.copy_(torch.arange(3, 3 + tokens))
    return model.eval()


@pytest.mark.parametrize("family", sorted(CHECKED))
def test_speculation_of_every_family_is_plain_decoding(family):
    model = model_with_exits(family, "direct" if family == "opt" else "lens")
    inputs = prompts(model)

    drafted = told(model, inputs, SelfSpeculation(draft_exit=2, draft_length=3))

    assert drafted == told(model, inputs)


@pytest.mark.parametrize("engine", ["plain", "family"])
@given(
    seed=st.integers(0, 99),
    draft_exit=st.integers(1, 3),
    draft_length=st.sampled_from([1, 2, 3, 7, "auto"]),
    surest=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    lookup=st.integers(0, 4),
    rows=st.integers(1, 3),
)
def test_speculation_never_changes_the_text(
    engine, seed, draft_exit, draft_length, surest, lookup, rows
):
    model = MODELS.setdefault("llama", model_with_exits())
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, tiny.VOCAB, (rows, 5), generator=generator)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    drafted = told(
        model,
        inputs,
        SelfSpeculation(
            draft_exit=draft_exit,
            draft_length=draft_length,
            surest=surest,
            lookup=lookup,
            engine=engine,
        ),
    )

    assert drafted == told(model, inputs)


MODELS = {}


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_speculation_writes_the_text_of_its_target(family, target):
    model = model_with_exits(family)
    inputs = prompts(model)
    plain = told(model, inputs, target)

    for draft_exit in (1, 2):
        speculation = SelfSpeculation(draft_exit=draft_exit, draft_length=3, target=target)
        assert told(model, inputs, speculation) == plain
    assert told(model, inputs, Autoregressive(target=target)) == plain


def test_a_text_does_not_depend_on_its_batch_mates():
    model = model_with_exits()
    inputs = prompts(model)
    speculation = SelfSpeculation(draft_exit=2, draft_length=3)

    together = told(model, inputs, speculation)

    for row, ids in enumerate(inputs["input_ids"]):
        alone = ids[inputs["attention_mask"][row].bool()][None]
        new = told(model, {"input_ids": alone}, speculation)[0][alone.shape[1] :]
        assert together[row][len(ids) :][: len(new)] == new


@pytest.mark.parametrize("rows", [1, 3])
def test_a_trained_drafter_never_changes_the_text(rows):
    model = with_drafter(model_with_exits())
    inputs = {name: value[:rows] for name, value in prompts(model).items()}

    for speculation in (
        SelfSpeculation(draft_length=2),
        SelfSpeculation(surest=0.01),
        SelfSpeculation(draft_length=4, lookup=2, target=Contrast(lower=2)),
    ):
        assert told(model, inputs, speculation) == told(model, inputs, speculation.target)


class Fives(LogitsProcessor):
    """Make 5 the best token wherever it is asked."""

    def __call__(self, ids, scores):
        scores[:, 5] = 1e4
        return scores


def test_a_drafter_that_knows_is_always_right():
    model = with_drafter(model_with_exits())
    model.drafter.tokens.fill_(5)  # whatever it reads, it guesses 5

    output = model.generate(
        **prompts(model, (6,)),
        decoding=SelfSpeculation(draft_length=3),
        logits_processor=LogitsProcessorList([Fives()]),
        max_new_tokens=13,
        do_sample=False,
        return_dict_in_generate=True,
    )

    assert output.sequences[0, 6:].tolist() == [5] * 13
    assert output.drafted.tolist() == output.accepted.tolist() == [9]
    assert output.copied.tolist() == [0]
    assert output.blocks[0].count_nonzero() == 4  # the prompt, then three steps of four tokens


def test_a_right_draft_counts_though_the_text_ends_with_it():
    model = with_drafter(model_with_exits())
    model.drafter.tokens.fill_(5)

    output = model.generate(
        **prompts(model, (6,)),
        decoding=SelfSpeculation(draft_length=3),
        logits_processor=LogitsProcessorList([Fives()]),
        stopping_criteria=[lambda ids, _: torch.tensor([(ids[0] == 5).sum() >= 4])],
        max_new_tokens=13,
        do_sample=False,
        return_dict_in_generate=True,
    )

    assert output.sequences[0, 6:].tolist() == [5] * 4
    assert output.drafted.tolist() == output.accepted.tolist() == [3]


def test_a_user_s_processor_is_shown_as_many_rows_as_the_batch_has():
    model = model_with_exits()
    inputs = prompts(model, (5, 5, 5))
    shapes = []

    class Watching(LogitsProcessor):
        def __call__(self, ids, scores):
            shapes.append(scores.shape[0])
            return scores

    class Cooler(TemperatureLogitsWarper):
        def __call__(self, ids, scores):
            shapes.append(scores.shape[0])
            return super().__call__(ids, scores)

    for processor in (Watching(), Cooler(0.5)):  # a user's, so nothing is known of it
        shapes.clear()
        told(model, inputs, Autoregressive(), logits_processor=[processor])
        assert set(shapes) == {3}


def test_transformers_own_processors_are_shown_one_row(monkeypatch):
    model = model_with_exits()
    seen = []
    known = TemperatureLogitsWarper.__call__

    def watched(self, ids, scores):
        seen.append((len(ids), len(scores)))
        return known(self, ids, scores)

    monkeypatch.setattr(TemperatureLogitsWarper, "__call__", watched)
    told(model, prompts(model, (5, 5, 5)), Autoregressive(), do_sample=True, temperature=0.5)

    assert set(seen) == {(1, 1)}


@pytest.mark.parametrize("decoding", [Autoregressive(), SelfSpeculation(draft_exit=2)])
def test_guidance_is_for_one_text_since_it_remembers_its_last_call(decoding):
    model = model_with_exits()
    one = prompts(model, (6,))

    assert told(model, one, decoding, guidance_scale=1.5) == told(model, one, guidance_scale=1.5)
    with pytest.raises(ConfigError, match=r"guidance_scale .* one text at a time, got 3"):
        told(model, prompts(model), decoding, guidance_scale=1.5)


@pytest.mark.parametrize("draft_exit", [1, 3])
def test_a_seed_draws_the_same_text_with_drafts_and_without(draft_exit):
    model = model_with_exits()
    inputs = prompts(model, (6,))

    for seed in range(5):
        texts = []
        for decoding in (
            None,
            Autoregressive(),
            SelfSpeculation(draft_exit=draft_exit, draft_length=3, lookup=2),
        ):
            torch.manual_seed(seed)
            texts.append(told(model, inputs, decoding, do_sample=True, temperature=0.7, top_k=20))
        assert texts[0] == texts[1] == texts[2]


def test_sampled_speculation_keeps_the_distribution():
    model = model_with_exits()
    few = {"do_sample": True, "top_k": 2, "eos_token_id": None, "max_new_tokens": 4}
    ids = prompts(model, (5,))["input_ids"].repeat(600, 1)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    expected = {(): float(len(ids))}  # how often each text should be drawn, by the model's scores
    for _ in range(4):
        grown = {}
        for text, count in expected.items():
            with torch.no_grad():
                seen = torch.cat((ids[:1], torch.tensor([text], dtype=torch.long)), -1)
                values, best = model(seen).logits[0, -1].topk(2)
            for token, share in zip(best.tolist(), values.softmax(-1).tolist(), strict=True):
                grown[*text, token] = count * share
        expected = grown

    torch.manual_seed(0)
    speculation = SelfSpeculation(draft_exit=3, draft_length=2)
    output = model.generate(**inputs, decoding=speculation, return_dict_in_generate=True, **few)

    assert output.drafted.sum() > len(ids)
    assert output.accepted.sum() > len(ids) / 10
    texts = output.sequences[:, 5:].tolist()
    drawn = Counter(map(tuple, texts))
    assert drawn.keys() <= expected.keys()
    common = torch.tensor([expected[text] > 5 for text in expected])
    seen = torch.tensor([float(drawn[text]) for text in expected])[common]
    expected = torch.tensor(list(expected.values()))
    assert common.sum() >= 8
    chi_square = ((seen - expected[common]) ** 2 / expected[common]).sum()
    freedom = int(common.sum())
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.5},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 6, "eos_token_id": 7},
        {"bad_words_ids": [[9], [11, 12]]},
        {"suppress_tokens": list(range(3, 20))},
    ],
    ids=str,
)
def test_processors_hold_inside_a_draft(options):
    model = model_with_exits()
    inputs = prompts(model)

    drafted = told(model, inputs, SelfSpeculation(draft_exit=3, draft_length=4), **options)

    assert drafted == told(model, inputs, **options)


def test_stopping_criteria_hold_inside_a_draft(byte_tokenizer):
    model = model_with_exits(vocab_size=len(byte_tokenizer))
    inputs = prompts(model, (6,))
    plain = told(model, inputs, max_new_tokens=30)[0][6:]
    letter = next(token for token in plain[2:] if 3 <= token < 97)  # printable ASCII
    stop = [StopStringCriteria(byte_tokenizer, byte_tokenizer.decode([letter]))]

    for decoding in (None, SelfSpeculation(draft_exit=3, draft_length=5)):
        text = told(model, inputs, decoding, max_new_tokens=30, stopping_criteria=stop)[0][6:]
        assert text == plain[: plain.index(letter) + 1]


@pytest.mark.parametrize("new", [1, 2, 3, 4, 5])
def test_a_draft_never_goes_beyond_the_tokens_asked_for(new):
    model = model_with_exits("gpt2", n_positions=9 + new)
    inputs = prompts(model, (9,))

    text = told(model, inputs, SelfSpeculation(draft_exit=3, draft_length=4), max_new_tokens=new)

    assert len(text[0]) == 9 + new
    assert text == told(model, inputs, max_new_tokens=new)


def test_a_streamer_gets_each_token_once(byte_tokenizer, capsys):
    model = model_with_exits(vocab_size=len(byte_tokenizer))
    inputs = prompts(model, (6,))
    new = told(model, inputs)[0][6:]

    streamer = TextStreamer(byte_tokenizer, skip_prompt=True)
    told(model, inputs, SelfSpeculation(draft_exit=2, draft_length=3), streamer=streamer)

    assert capsys.readouterr().out == byte_tokenizer.decode(new) + "\n"


def test_a_trimmed_draft_vocabulary_changes_no_text():
    model = model_with_exits()
    inputs = prompts(model)
    few = SelfSpeculation(draft_exit=3, draft_length=3, draft_vocabulary=(4, 9, 30, 31))

    output = model.generate(
        **inputs, decoding=few, max_new_tokens=NEW, do_sample=False, return_dict_in_generate=True
    )

    assert output.sequences.tolist() == told(model, inputs)
    assert int(output.drafted.sum()) > 0


def test_lookup_copies_what_followed_before():
    model = model_with_exits()
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 5, 6, 7]])

    class Cycle(LogitsProcessor):
        def __call__(self, seen, scores):
            scores[:] = -1e4
            scores[:, 5 + (seen.shape[1] % 6)] = 0
            return scores

    output = model.generate(
        ids,
        decoding=SelfSpeculation(draft_exit=1, draft_length=1, lookup=4),
        logits_processor=LogitsProcessorList([Cycle()]),
        max_new_tokens=11,
        do_sample=False,
        return_dict_in_generate=True,
    )

    assert output.sequences[0, 9:].tolist() == [8, 9, 10, 5, 6, 7, 8, 9, 10, 5, 6]
    assert output.accepted.tolist() == output.drafted.tolist() == output.copied.tolist() == [8]


def test_every_block_runs_once_for_a_token_that_was_drafted_right():
    model = model_with_exits()
    output = model.generate(
        **prompts(model, (6,)),
        decoding=SelfSpeculation(draft_exit=2, draft_length=3),
        max_new_tokens=NEW,
        do_sample=False,
        eos_token_id=None,
        return_dict_in_generate=True,
    )
    refused = int(output.drafted.sum() - output.accepted.sum())

    blocks = int(output.blocks[:, 1:].sum())  # without the prompt's

    assert blocks == model.depth * (NEW - 1 + refused)


@pytest.mark.parametrize(
    ("decoding", "error", "message"),
    [
        (SelfSpeculation(), ConfigError, "no trained drafter; name an exit that drafts"),
        (SelfSpeculation(draft_exit=9), ExitNotFoundError, "exit 9 does not exist"),
        (SelfSpeculation(draft_exit=4), ConfigError, "draft_exit must be from 1 to 3"),
        (SelfSpeculation(draft_exit=2, target=FixedExit(exit=2)), ConfigError, "from 1 to 1"),
        (Autoregressive(target=FixedExit(exit=7)), ExitNotFoundError, "exit 7 does not exist"),
        (Autoregressive(engine="fast"), ConfigError, "no engine 'fast'"),
        (
            SelfSpeculation(draft_exit=2, draft_vocabulary=(61,)),
            ConfigError,
            "ids from 0 to 60",
        ),
        (EarlyExit(rule="gate"), ConfigError, "no exit of this model has a gate"),
    ],
    ids=str,
)
def test_what_the_model_cannot_follow_is_refused(decoding, error, message):
    model = model_with_exits()

    with pytest.raises(error, match=message):
        told(model, prompts(model), decoding)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SelfSpeculation(draft_length=0), "at least 1, got 0"),
        (lambda: SelfSpeculation(surest=2.0), "from 0 to 1, got 2.0"),
        (lambda: SelfSpeculation(lookup=-1), "0 or more tokens, got -1"),
        (lambda: SelfSpeculation(draft_exit=2, draft_vocabulary=()), "draft_vocabulary is empty"),
        (lambda: EarlyExit(rule="luck"), "no rule 'luck'"),
        (lambda: EarlyExit(rule="top_gap", threshold=1.5), "from 0 to 1, got 1.5"),
        (lambda: EarlyExit(rule="patience", threshold=1), "at least 2; got 1"),
        (lambda: EarlyExit(rule="fixed", threshold=0.5, exits=(1,)), "has no threshold"),
        (lambda: EarlyExit(rule="schedule"), "go together"),
        (lambda: EarlyExit(rule="schedule", schedule=((1, 2),)), "begin at token 0"),
        (lambda: EarlyExit(rule="top_gap", threshold=0.5, cache="skip"), "'defer' or 'copy'"),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2}, "got num_beams=2"),
        ({"output_scores": True, "return_dict_in_generate": True}, "output_scores"),
    ],
)
def test_what_a_loop_cannot_do_is_refused(options, message):
    model = model_with_exits()

    with pytest.raises(ConfigError, match=message):
        told(model, prompts(model), Autoregressive(), **options)
