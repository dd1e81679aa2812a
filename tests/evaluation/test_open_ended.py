"""Documents become beginnings, and a model goes on with them in the way that was asked for."""

import pytest
import torch

import tiny
from offramp import Contrast, attach_exits
from offramp.errors import ConfigError, InputError
from offramp.evaluation.open_ended import (
    Continuer,
    Opening,
    documents_of,
    openings_of,
    parse_strategy,
)

PROMPTS = ["one two", "three", "four five six seven", "eight"]


def words(count, *, start=0):
    return " ".join(f"w{number}" for number in range(start, start + count))


@pytest.fixture
def going_on(byte_tokenizer):
    model = attach_exits(tiny.model_of("llama", vocab_size=259), (1, 2, 3), "direct")

    def make(strategy="greedy", **more):
        fixed = {"new_tokens": 6, "strategy": parse_strategy(strategy)}
        return Continuer(model, byte_tokenizer, **fixed, **more)

    return make


def texts(written):
    return [each.text for each in written]


def test_a_beginning_keeps_its_spaces_and_the_rest_is_cut_to_tokens(byte_tokenizer):
    text = "  a\tb  c\nd e f g h i j"

    (found,), short = openings_of([("here", text)], byte_tokenizer, words=3, new_tokens=5)

    assert found == Opening(prompt="a\tb  c", reference="\nd e ", place="here")
    assert short == 0


def test_documents_that_are_too_short_are_counted_and_equal_ones_taken_once(byte_tokenizer):
    documents = [("a", "x y"), ("b", words(9)), ("c", words(9)), ("d", words(9, start=5))]

    found, short = openings_of(documents, byte_tokenizer, words=2, new_tokens=8)

    assert [each.place for each in found] == ["b", "d"]
    assert short == 1
    limited, _ = openings_of(documents, byte_tokenizer, words=2, new_tokens=8, limit=1)
    assert [each.place for each in limited] == ["b"]
    with pytest.raises(InputError, match="none of 1 documents has 32 words"):
        openings_of(documents[:1], byte_tokenizer)


def test_blank_lines_divide_text_files_only():
    rows = [
        ("a.txt, line 1", {"text": "one\n \n\ntwo\nstill two\n"}),
        ("a.jsonl, line 1", {"text": "three\n\nstill three"}),
    ]

    found = [text for _, text in documents_of(rows)]

    assert found == ["one", "two\nstill two\n", "three\n\nstill three"]
    with pytest.raises(InputError, match="no text in the column 'text', found body"):
        list(documents_of([("x.csv, row 1", {"body": "one"})]))


@pytest.mark.parametrize(
    ("asked", "arguments"),
    [
        ("greedy", {}),
        ("beam:3", {"num_beams": 3}),
        (" top-k:50", {"do_sample": True, "top_k": 50}),
        ("top-p:0.95", {"do_sample": True, "top_p": 0.95}),
    ],
)
def test_a_strategy_is_arguments_of_generate(asked, arguments):
    strategy = parse_strategy(asked)

    assert dict(strategy.arguments) == arguments
    assert strategy.name == asked.strip()
    assert strategy.samples == ("do_sample" in arguments)


@pytest.mark.parametrize("wrong", ["beam:1", "beam", "top-k:0", "top-p:1.5", "top-p:x", "best", ""])
def test_other_strategies_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"greedy, beam:N, top-k:N or top-p:P"):
        parse_strategy(wrong)


@pytest.mark.parametrize("strategy", ["greedy", "beam:2"])
def test_a_text_depends_neither_on_its_batch_nor_on_the_order(going_on, strategy):
    writer = going_on(strategy, rule=Contrast(lower=2))

    together = texts(writer.write(PROMPTS))
    alone = [texts(writer.write([prompt]))[0] for prompt in PROMPTS]
    backwards = texts(writer.write(PROMPTS[::-1]))[::-1]

    assert together == alone == backwards
    assert len(set(together)) > 1


def test_the_rule_decides_the_text(going_on):
    assert texts(going_on().write(PROMPTS)) != texts(
        going_on(rule=Contrast(lower=2)).write(PROMPTS)
    )


def test_draws_follow_the_seed_and_the_batch_and_leave_no_trace(going_on):
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)

    first = texts(going_on("top-p:0.95", seed=1).write(PROMPTS))

    assert torch.rand(1) == expected
    assert texts(going_on("top-p:0.95", seed=1).write(PROMPTS)) == first
    assert texts(going_on("top-p:0.95", seed=2).write(PROMPTS)) != first
    assert texts(going_on("top-p:0.95", seed=1).write(PROMPTS, batch=1)) != first


def test_what_a_generation_configuration_asks_for_does_not_come_in(going_on):
    plain, odd = going_on(), going_on()
    expected = texts(plain.write(PROMPTS))
    odd._model.generation_config.update(
        do_sample=True, temperature=9.0, num_beams=3, no_repeat_ngram_size=1
    )

    assert texts(odd.write(PROMPTS)) == expected


def test_an_encoder_decoder_and_a_tokenizer_without_padding_are_refused(byte_tokenizer):
    with pytest.raises(ConfigError, match="use a decoder, or --pairs"):
        Continuer(tiny.model_of("t5"), byte_tokenizer, strategy=parse_strategy("greedy"))
    byte_tokenizer.pad_token = None
    with pytest.raises(ConfigError, match=r"set tokenizer\.pad_token"):
        Continuer(tiny.model_of("llama"), byte_tokenizer, strategy=parse_strategy("greedy"))
