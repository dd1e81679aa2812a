"""Texts are written in batches of similar length and come back in the order of their sources."""

import pytest
import torch

import tiny
from offramp.decoding.oneshot import OneShot
from offramp.errors import CheckpointError, ConfigError, InputError
from offramp.evaluation.seq2seq import Writer, WriteSettings
from small_seq2seq import elmer_of

SOURCES = ("a ferry", "b", "the longest of the sources in here", "cars", "cc")
VOCABULARY = 3 + 256


def elmer(**more):
    return elmer_of(vocab_size=VOCABULARY, max_position_embeddings=64, **more)


@pytest.fixture(params=["bart", "t5", "plain", "ctc", "dag"])
def model(request):
    """A model of each kind; the last three are ELMER's heads."""
    if request.param in ("plain", "ctc", "dag"):
        return elmer(output_head=request.param)
    return tiny.model_of(request.param, vocab_size=VOCABULARY, seed=8)


def writer(model, tokenizer, **settings):
    settings = {"max_new_tokens": 8, **settings}
    return Writer(model, tokenizer, WriteSettings(**settings))


def test_a_text_depends_neither_on_its_batch_nor_on_the_order(model, byte_tokenizer):
    alone = writer(model, byte_tokenizer, batch_size=1).write_all(SOURCES)
    together = writer(model, byte_tokenizer, batch_size=3).write_all(SOURCES)
    turned = writer(model, byte_tokenizer, batch_size=2).write_all(SOURCES[::-1])

    assert [each.tokens for each in together] == [each.tokens for each in alone]
    assert [each.tokens for each in turned[::-1]] == [each.tokens for each in alone]
    assert len({each.text for each in alone}) > 1


def test_batches_are_of_similar_length_the_longest_first(byte_tokenizer):
    model = tiny.model_of("bart", vocab_size=VOCABULARY)
    seen = []

    batches = writer(model, byte_tokenizer, batch_size=2).batches(SOURCES)
    writer(model, byte_tokenizer, batch_size=2).write_all(SOURCES, advance=seen.append)

    assert batches == [(2, 0), (3, 4), (1,)]
    assert seen == [2, 2, 1]


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"no_repeat_ngram_size": 1}])
def test_token_by_token_texts_are_those_of_transformers(byte_tokenizer, options):
    model = tiny.model_of("bart", vocab_size=VOCABULARY)
    ids = byte_tokenizer(SOURCES[0], return_tensors="pt")["input_ids"]
    (expected,) = model.generate(ids, max_new_tokens=8, do_sample=False, **options)[:, 1:].tolist()

    (found,) = writer(model, byte_tokenizer, generation=options).write(SOURCES[:1])

    assert list(found.tokens) == expected
    assert found.text == byte_tokenizer.decode(expected, skip_special_tokens=True)
    assert found.finished == (2 in expected)
    assert found.exits is None


def test_a_text_ends_with_its_end_token_and_without_padding(byte_tokenizer):
    model = tiny.model_of("bart", vocab_size=VOCABULARY)
    found = writer(model, byte_tokenizer)

    assert found._cut([5, 2, 0, 0]) == [5, 2]
    assert found._cut([5, 6, 0, 0]) == [5, 6]
    assert found._cut([]) == []


def test_in_one_pass_each_token_has_its_exit(byte_tokenizer):
    model = elmer()
    settings = OneShot(exit_rule="top_probability", threshold=0.1)
    ids = byte_tokenizer(SOURCES[0], return_tensors="pt")["input_ids"]
    made = model.generate(ids, decoding=settings, return_dict_in_generate=True, max_new_tokens=8)

    found = writer(model, byte_tokenizer, decoding=settings).write_all(SOURCES)

    assert list(found[0].tokens) == made.sequences[0].tolist()
    assert list(found[0].exits) == made.exits[0].tolist()
    assert found[0].canvas_length == int(made.canvas_lengths[0])
    assert all(len(each.exits) == len(each.tokens) for each in found)
    assert all(1 <= exit <= 4 for each in found for exit in each.exits)
    assert all(0 < each.positions <= 4 * each.canvas_length for each in found[2:3])


@pytest.mark.parametrize("head", ["plain", "ctc", "dag"])
def test_a_text_of_one_pass_is_finished_unless_it_is_cut(byte_tokenizer, head):
    model = elmer(output_head=head)
    with torch.no_grad():
        model.final_logits_bias[:, 7] = 50.0  # a plain or dag text that never ends
        model.final_logits_bias[:, model.config.mask_token_id] = 90.0 if head == "ctc" else 0.0

    (found,) = writer(model, byte_tokenizer, max_new_tokens=None).write(SOURCES[:1])
    model.final_logits_bias.data[:, model.config.mask_token_id] = 0.0
    (cut,) = writer(model, byte_tokenizer, max_new_tokens=1).write(SOURCES[:1])

    assert found.finished == (head == "ctc")
    assert (len(cut.tokens), cut.finished) == (1, False)


def test_an_end_that_was_forced_is_a_cut(byte_tokenizer):
    model = tiny.model_of("bart", vocab_size=VOCABULARY)
    with torch.no_grad():
        model.final_logits_bias[:, 9] = 50.0
    model.generation_config.forced_eos_token_id = 2

    (found,) = writer(model, byte_tokenizer, max_new_tokens=4).write(SOURCES[:1])

    assert found.tokens == (9, 9, 9, 2)
    assert not found.finished


def test_draws_repeat(byte_tokenizer):
    hot = OneShot(temperature=2.0)
    one, two, other = (
        writer(elmer(), byte_tokenizer, decoding=hot, seed=seed).write_all(SOURCES)
        for seed in (1, 1, 2)
    )

    assert one == two
    assert one != other


def test_sources_are_cut_only_when_asked(byte_tokenizer):
    model = tiny.model_of("bart", vocab_size=VOCABULARY)

    with pytest.raises(
        InputError, match=r"row 1: the source has 65 tokens, the model's context 64"
    ):
        writer(model, byte_tokenizer).write_all(["a", "x" * 65])
    cut = writer(model, byte_tokenizer, max_source_tokens=4).write_all(["abcdefg" * 20])
    assert cut == writer(model, byte_tokenizer).write_all(["abcd"])


def test_ways_to_write_have_names(byte_tokenizer):
    model = tiny.model_of("bart", vocab_size=VOCABULARY)
    beams = {"num_beams": 4, "no_repeat_ngram_size": 3}

    assert writer(model, byte_tokenizer).decoding() == "greedy"
    name = writer(model, byte_tokenizer, generation=beams).decoding()
    assert name == "4 beams, no_repeat_ngram_size 3"
    assert writer(elmer(), byte_tokenizer).decoding() == "one pass"
    model.generation_config.update(no_repeat_ngram_size=2, min_length=3, length_penalty=2.0)
    assert (
        writer(model, byte_tokenizer).decoding() == "greedy, no_repeat_ngram_size 2, min_length 3"
    )
    name = writer(model, byte_tokenizer, generation=beams).decoding()
    assert name == "4 beams, no_repeat_ngram_size 3, min_length 3, length_penalty 2.0"
    early = OneShot(exit_rule="entropy", threshold=0.5)
    name = writer(elmer(), byte_tokenizer, decoding=early).decoding()
    assert name == "one pass, exit_rule entropy, threshold 0.5"


def test_what_cannot_write_is_refused(byte_tokenizer, tiny_llama):
    small = tiny.model_of("bart")

    with pytest.raises(ConfigError, match="a llama model is a decoder only"):
        Writer(tiny_llama, byte_tokenizer)
    with pytest.raises(ConfigError, match="max_new_tokens is 65, the model's context 64"):
        writer(small, byte_tokenizer, max_new_tokens=65)
    with pytest.raises(CheckpointError, match="give the model its own tokenizer"):
        writer(small, byte_tokenizer).batches(["zebra"])
    with pytest.raises(InputError, match="line 7: the source has no tokens"):
        writer(small, byte_tokenizer).batches([""], places=["line 7"])
    with pytest.raises(ConfigError, match="batch_size must be at least 1, got 0"):
        WriteSettings(batch_size=0)
