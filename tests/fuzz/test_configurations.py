"""Settings of junk, of the kinds that their types allow: a value, or one line."""

import contextlib
import dataclasses
import types
import typing

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given
from hypothesis import strategies as st

import tiny
from fuzzing import NUMBERS, TEXTS, documents, fuzzed, outcome
from offramp import (
    Autoregressive,
    Contrast,
    DataSettings,
    DoLa,
    EarlyExit,
    ElmerConfig,
    FinetuneSettings,
    FixedExit,
    MultiExitConfiguration,
    OneShot,
    PretrainSettings,
    SelfSpeculation,
    SelfText,
    TrainSettings,
    attach_exits,
)
from offramp.config import VocabularyProjectionMode, parse_exit, parse_exits
from small_seq2seq import SIZES, TOKENS, elmer_of

WORDS = st.one_of(
    st.sampled_from((*TEXTS, "9" * 5000, "6;12", "original;12", "12;6", "True", "(" * 500)),
    st.sampled_from(("gate", "top_gap", "patience", "entropy", "low", "raw", "copy", "plain")),
    st.text(alphabet="0123456789;:,.-original ", max_size=12),
)
WHOLE = st.one_of(st.integers(-2, 6), st.sampled_from([n for n in NUMBERS if isinstance(n, int)]))
BROKEN = st.one_of(st.floats(), st.floats(0, 1), st.integers(-1, 3))
KINDS = {str: WORDS, int: WHOLE, float: BROKEN, bool: st.booleans(), type(None): st.none()}


def values(kind):
    """Give junk of the kind that a field says it takes."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if kind in KINDS:
        return KINDS[kind]
    if origin in (typing.Union, types.UnionType):
        return st.one_of([found for each in inside if (found := values(each)) is not None])
    if origin is typing.Literal:
        return st.sampled_from(inside)
    if origin is tuple:
        if inside[-1] is Ellipsis:
            return st.lists(values(inside[0]), max_size=3).map(tuple)
        return st.tuples(*map(values, inside))
    if origin is not None and issubclass(origin, typing.Mapping):
        return st.dictionaries(values(inside[0]), values(inside[1]), max_size=3)
    if origin is not None and issubclass(origin, typing.Sequence):
        return st.lists(values(inside[0]), max_size=3).map(tuple)
    return None


@st.composite
def settings_of(draw, kind):
    """Some fields of a class of settings; others keep their defaults."""
    types_of = typing.get_type_hints(kind)
    given = {}
    for field in dataclasses.fields(kind):
        needed = field.default is dataclasses.MISSING and (
            field.default_factory is dataclasses.MISSING
        )
        strategy = values(types_of[field.name])
        if strategy is not None and (needed or draw(st.integers(0, 3)) == 0):
            given[field.name] = draw(strategy)
    return given


@pytest.fixture(scope="module")
def model():
    """With three exits."""
    return attach_exits(tiny.model_of("llama"), (1, 2, 3), "lens")


@pytest.mark.parametrize(
    "kind", [Contrast, DoLa, FixedExit, EarlyExit, SelfSpeculation, Autoregressive]
)
@fuzzed(8)
@given(data=st.data())
def test_rules(model, kind, data):
    given = data.draw(settings_of(kind))

    rule = outcome(kind, **given)

    if rule is not None:
        ids = tiny.prompt(model)["input_ids"]
        outcome(model.generate, ids, decoding=rule, max_new_tokens=2, do_sample=False)


@fuzzed(12)
@given(data=st.data())
def test_the_published_configuration(model, data):
    settings = outcome(MultiExitConfiguration, **data.draw(settings_of(MultiExitConfiguration)))

    if settings is not None:
        assert settings.get_description()
        assert settings.rule is None or settings.rule.exits(model)


@pytest.mark.parametrize(
    "kind", [DataSettings, TrainSettings, PretrainSettings, FinetuneSettings, SelfText]
)
@fuzzed(12)
@given(data=st.data())
def test_settings_of_trainings(kind, data):
    outcome(kind, **data.draw(settings_of(kind)))


@fuzzed(20)
@given(words=WORDS, some=st.lists(st.one_of(WORDS, WHOLE), max_size=3))
def test_exits_and_projections(words, some):
    outcome(parse_exit, words)
    outcome(parse_exits, words)
    outcome(parse_exits, some)
    outcome(VocabularyProjectionMode.parse, words)


@pytest.fixture(scope="module")
def elmer():
    return elmer_of(vocab_size=tiny.VOCAB, max_position_embeddings=64)


@fuzzed(12)
@given(data=st.data())
def test_settings_of_one_pass(elmer, data):
    settings = outcome(OneShot, **data.draw(settings_of(OneShot)))

    if settings is not None:
        torch.manual_seed(0)
        ids = torch.tensor([[5, 6, 7, 2], [8, 2, 0, 0]])
        outcome(elmer.generate, ids, attention_mask=(ids != 0).long(), decoding=settings)


OWN = ("output_head", "canvas_ratio", "canvas_extra", "exit_loss", "soft_training", "glancing")
OWN += ("length_predictor", "dag_heads", "gates", "mask_token_id", "canvas_start_token_id")


@fuzzed(12)
@given(data=st.data())
def test_configurations_of_elmer(data):
    """Fields of a wrong kind are refused by the base, in its words."""
    whole = ElmerConfig(vocab_size=tiny.VOCAB, **SIZES, **TOKENS)
    fields = {name: getattr(whole, name) for name in OWN}
    given = data.draw(documents(fields))
    known = {name: given[name] for name in OWN if name in given} if given else {}

    with contextlib.suppress(StrictDataclassError):
        outcome(ElmerConfig, vocab_size=tiny.VOCAB, **SIZES, **TOKENS, **known)
