"""The model type answers lm-eval as its own hf does, and from any exit."""

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiny
from cli.conftest import CONTEXT, byte_tokenizer
from offramp import AutoMultiExitModel, EarlyExit, FixedExit, MultiExitConfiguration, attach_exits
from offramp.errors import ConfigError, ExitNotFoundError, InputError
from offramp.evaluation.harness.model import IMPOSSIBLE, OfframpLM
from offramp.evaluation.harness.settings import HarnessSettings
from offramp.models.default import ensure_default

PAIRS = (
    ("a ferry", " leaves"),
    ("a ferry", " waits"),
    ("", "the longest of the continuations"),
    ("the river is wide here ", "x"),
    ("the river is wide here ", "y"),
    ("long " * 30, "context that is cut"),
)
TEXTS = ("short", "a text that is far longer than the context of this tiny model, " * 4, "b")
UNTIL = {"until": ["e", "zz"], "max_gen_toks": 12}
WAYS = (
    {"output_layer_index": 2},
    {"contrast_layer_indices": "original;1"},
    {"dola": "1;2"},
    {"early_exit": "gate"},
    {"early_exit": "top_gap:0.1", "contrast_layer_indices": "original;2"},
)


def requests(kind, rows):
    return [
        Instance(request_type=kind, doc={}, arguments=row, idx=number)
        for number, row in enumerate(rows)
    ]


def pairs(lm, rows=PAIRS):
    return lm.loglikelihood(requests("loglikelihood", rows), disable_tqdm=True)


def texts(lm, rows=TEXTS):
    asked = requests("loglikelihood_rolling", [(row,) for row in rows])
    return lm.loglikelihood_rolling(asked, disable_tqdm=True)


def written(lm, rows=TEXTS, **more):
    asked = requests("generate_until", [(row[:40], {**UNTIL, **more}) for row in rows])
    return lm.generate_until(asked, disable_tqdm=True)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_original_head_gives_the_bits_of_hf(plain, exits, batch_size):
    hf = HFLM(pretrained=plain, device="cpu", batch_size=batch_size)

    ours = OfframpLM(pretrained=plain, exits=exits, device="cpu", batch_size=batch_size)

    assert pairs(ours) == pairs(hf)
    assert texts(ours) == texts(hf)
    assert written(ours) == written(hf)


def test_chunks_of_the_original_head_give_the_numbers_of_hf(plain):
    hf = HFLM(pretrained=plain, device="cpu", batch_size=4)

    ours = OfframpLM(pretrained=plain, device="cpu", batch_size=4, chunk=3)

    assert [p for p, _ in pairs(ours)] == pytest.approx([p for p, _ in pairs(hf)], abs=1e-3)
    assert [best for _, best in pairs(ours)] == [best for _, best in pairs(hf)]
    assert texts(ours) == pytest.approx(texts(hf), rel=1e-5)


@pytest.mark.parametrize("arguments", WAYS, ids=str)
def test_answers_do_not_depend_on_the_batch(exits, arguments):
    alone = OfframpLM(pretrained=exits, batch_size=1, **arguments)
    together = OfframpLM(pretrained=exits, batch_size=5, **arguments)

    assert [p for p, _ in pairs(together)] == pytest.approx(
        [pairs(alone, [row])[0][0] for row in PAIRS], abs=1e-3
    )
    assert texts(together) == pytest.approx(texts(alone), rel=1e-5)
    assert written(together) == [written(alone, [row])[0] for row in TEXTS]


@pytest.mark.parametrize("arguments", WAYS, ids=str)
def test_texts_are_those_of_generate(exits, arguments):
    lm = OfframpLM(pretrained=exits, **arguments)
    model = AutoMultiExitModel.from_pretrained(exits).eval()
    tokenizer = AutoTokenizer.from_pretrained(model.name_or_path)
    ids = tokenizer("a ferry", return_tensors="pt").input_ids
    rule = HarnessSettings(**arguments).decoding

    text = model.generate(ids, decoding=rule, max_new_tokens=12, do_sample=False)

    whole = tokenizer.decode(text[0, ids.shape[1] :], skip_special_tokens=True)
    assert written(lm, ["a ferry"]) == [whole.split("e")[0].split("zz")[0]]


def test_a_text_in_windows_is_the_sum_of_its_windows(exits):
    """Each token is scored once, with as much before it as fits, as lm-eval's windows say."""
    lm = OfframpLM(pretrained=exits, output_layer_index=2)
    model = AutoMultiExitModel.from_pretrained(exits).eval()
    ids = [lm.prefix_token_id, *lm.tok_encode(TEXTS[1])]
    first, rest = ids[: CONTEXT + 1], ids[CONTEXT + 1 :]
    total = 0.0
    for window, count in ((first, CONTEXT), (ids[-CONTEXT - 1 :], len(rest))):
        with torch.no_grad():
            logits = model.exit_logits(torch.tensor([window[:-1]]), exits=(2,))[2][0]
        wanted = torch.tensor(window[1:])[:, None]
        total += float(logits.log_softmax(-1).gather(-1, wanted)[-count:].sum())
    assert 0 < len(rest) <= CONTEXT

    assert texts(lm, [TEXTS[1]]) == [pytest.approx(total, rel=1e-5)]


def test_the_first_token_is_the_last_layers_unless_the_rule_is_to_be_asked(plain, exits):
    whole = pairs(OfframpLM(pretrained=plain), [("a ferry", "x")])
    fixed = {"pretrained": exits, "early_exit": "fixed:1"}

    as_written = pairs(OfframpLM(**fixed), [("a ferry", "x")])
    asked = pairs(OfframpLM(**fixed, first_token="rule"), [("a ferry", "x")])
    exit = pairs(OfframpLM(pretrained=exits, output_layer_index=1), [("a ferry", "x")])

    assert as_written[0][0] == pytest.approx(whole[0][0], abs=1e-4)
    assert asked[0][0] == pytest.approx(exit[0][0], abs=1e-4)
    assert abs(exit[0][0] - whole[0][0]) > 1e-2


def test_tokens_that_a_rule_never_writes_can_be_ranked_but_have_no_perplexity(exits):
    lm = OfframpLM(pretrained=exits, dola="1;2")

    (found, _), *_ = pairs(lm, [("a ferry", "abcdefgh")])

    assert found < IMPOSSIBLE
    assert found > 9 * IMPOSSIBLE
    assert texts(lm, ["abcdefgh"]) == [-float("inf")]


def test_the_configuration_at_loading_answers(exits):
    chosen = MultiExitConfiguration(use_original_head=False, output_layer_index=2)
    named = OfframpLM(pretrained=exits, output_layer_index=2)

    given = OfframpLM(pretrained=exits, multi_exit_config=chosen)
    model = AutoMultiExitModel.from_pretrained(exits, chosen)
    taken = OfframpLM(pretrained=model)
    original = OfframpLM(pretrained=model, use_original_head=True)

    assert given.decoding == taken.decoding == FixedExit(exit=2)
    assert pairs(given) == pairs(taken) == pairs(named)
    assert written(given) == written(taken) == written(named)
    assert original.decoding is None
    plain = OfframpLM(pretrained=exits)
    assert [p for p, _ in pairs(original)] == pytest.approx([p for p, _ in pairs(plain)], abs=1e-3)
    assert written(original) == written(plain)


def test_a_plain_model_gets_direct_exits_and_keeps_the_callers_mode(plain):
    model = AutoModelForCausalLM.from_pretrained(plain)
    tokenizer = AutoTokenizer.from_pretrained(plain)

    lm = OfframpLM(pretrained=model, tokenizer=tokenizer, contrast_layer_indices="original;1")

    assert lm.model.exit_numbers == (1, 2, 3)
    assert lm.model is model
    assert pairs(lm) != pairs(OfframpLM(pretrained=plain))


def test_lm_eval_finds_the_type_by_its_name(plain):
    lm = get_model("offramp").create_from_arg_string(
        f"pretrained={plain},contrast_layer_indices='original;1',alpha=0.2",
        {"batch_size": 2, "device": "cpu", "max_batch_size": None},
    )

    assert isinstance(lm, OfframpLM)
    assert lm.decoding.alpha == 0.2
    assert "Contrast" in lm.get_model_info()["offramp_decoding"]


@pytest.mark.parametrize("arguments", [{}, {"output_layer_index": 2}, {"early_exit": "gate"}])
def test_a_batch_size_can_be_found(exits, arguments):
    lm = OfframpLM(pretrained=exits, batch_size="auto", max_batch_size=4, **arguments)

    assert pairs(lm)[0][0] == pytest.approx(
        pairs(OfframpLM(pretrained=exits, **arguments))[0][0], abs=1e-3
    )


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"output_layer_index": 9}, ExitNotFoundError, "has 4 blocks"),
        ({"contrast_layer_indices": "original;9"}, ExitNotFoundError, "has 4 blocks"),
        ({"dola": "1;4"}, ConfigError, "below the last"),
        ({"early_exit": "top_gap:0.5", "lm_head_layer_indices": 4}, ConfigError, "may answer"),
        (
            {
                "early_exit": "top_gap:0.5",
                "lm_head_layer_indices": "1;2",
                "vocab_projection_mode": "block",
            },
            ConfigError,
            "'block' exits",
        ),
    ],
    ids=str,
)
def test_exits_that_there_are_not_are_refused(plain, arguments, error, words):
    with pytest.raises(error, match=words):
        OfframpLM(pretrained=plain, **arguments)


def test_gates_that_nobody_trained_are_refused(plain):
    with pytest.raises(ConfigError, match="no exit of this model has a gate"):
        OfframpLM(pretrained=plain, early_exit="gate")


def test_an_encoder_decoder_is_refused():
    with pytest.raises(ConfigError, match="use lm-eval's own hf"):
        OfframpLM(pretrained=tiny.model_of("bart"), tokenizer=byte_tokenizer(adds_bos=False))


@pytest.mark.parametrize("row", [("a", ""), ("a", "x" * (CONTEXT + 1))])
def test_a_request_that_cannot_be_scored_is_refused(exits, row):
    with pytest.raises(InputError, match="continuation"):
        pairs(OfframpLM(pretrained=exits, output_layer_index=1), [row])


def test_block_exits_are_scored_at_every_position(plain):
    model = attach_exits(AutoModelForCausalLM.from_pretrained(plain), (2,), "block")
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        wanted = model.exit_logits(ids[:, :-1], exits=(2,))[2][0].log_softmax(-1)
    lm = OfframpLM(
        pretrained=model, tokenizer=AutoTokenizer.from_pretrained(plain), output_layer_index=2
    )

    ((found, _),) = lm._loglikelihood_tokens([(None, [5, 6], [7, 8, 9])], disable_tqdm=True)

    assert found == pytest.approx(float(wanted[1:].gather(-1, ids[0, 2:, None]).sum()), abs=1e-4)


def test_early_exit_of_a_batch_stops_each_text_by_itself(exits):
    lm = OfframpLM(pretrained=exits, early_exit="gate", batch_size=3)

    assert isinstance(lm.decoding, EarlyExit)
    found = written(lm)
    assert all("e" not in text for text in found)


@pytest.mark.real
def test_the_default_model_gives_the_bits_of_hf():
    hf = HFLM(pretrained=str(ensure_default()), device="cpu", batch_size=3)
    ours = OfframpLM(batch_size=3)

    assert pairs(ours) == pairs(hf)
    assert texts(ours) == texts(hf)
    assert written(ours, [TEXTS[0]]) == written(hf, [TEXTS[0]])
