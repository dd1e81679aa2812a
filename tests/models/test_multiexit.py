import copy
import dataclasses

import pytest
import torch
from transformers import StoppingCriteria, StoppingCriteriaList, TextStreamer, pipeline

import tiny
from offramp import (
    AutoMultiExitModel,
    Contrast,
    DoLa,
    FixedExit,
    MultiExitConfiguration,
    MultiExitModel,
    attach_exits,
    contrast_logits,
)
from offramp.errors import ConfigError, ExitNotFoundError, InputError
from offramp.models.attach import probe

PROJECTIONS = ["head", "cast", "direct", "lens", "block"]
RULES = [
    Contrast(lower=2),
    Contrast(upper=3, lower=1),
    Contrast(lower=2, sparse=False),
    FixedExit(exit=2),
    DoLa(layers="low"),
]
FAMILIES = ["llama", "gpt2", "t5", "bart"]


def multi_exit(family="llama", projection="direct", exits=(1, 2, 3), **extra):
    """A tiny model whose exits are not fresh: they differ from what the base would say."""
    model = attach_exits(tiny.model_of(family, **extra), exits, projection)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.exits.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def padded(lengths=(3, 7, 5), vocab=tiny.VOCAB):
    """Rows of several lengths, alone and left-padded together."""
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randint(3, vocab, (1, n), generator=generator) for n in lengths]
    longest = max(lengths)
    ids = torch.cat([torch.nn.functional.pad(row, (longest - row.shape[1], 0)) for row in rows])
    mask = torch.cat(
        [torch.nn.functional.pad(torch.ones_like(r), (longest - r.shape[1], 0)) for r in rows]
    )
    return rows, ids, mask


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_attaching_changes_no_base_logit_and_no_weight(family, projection):
    model = tiny.model_of(family)
    inputs, before = tiny.prompt(model), copy.deepcopy(model.state_dict())
    logits = model(**inputs).logits

    attach_exits(model, (1, 2, 3), projection)

    assert torch.equal(model(**inputs).logits, logits)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_scores_are_right_at_every_position(family, rule):
    model = multi_exit(family, "lens")
    inputs = tiny.prompt(model, rows=2, length=6)
    key = "decoder_input_ids" if model.config.is_encoder_decoder else "input_ids"

    together = model(**inputs, decoding=rule).logits
    one_by_one = [
        model(**{**inputs, key: inputs[key][:, : i + 1]}, decoding=rule).logits[:, -1]
        for i in range(6)
    ]

    assert torch.allclose(together, torch.stack(one_by_one, 1), atol=1e-4)


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_sparse_and_dense_contrast_are_the_same_text_and_scores(projection):
    model = multi_exit("llama", projection)
    ids = tiny.prompt(model, rows=3)["input_ids"]
    made = [
        model.generate(
            ids,
            max_new_tokens=8,
            do_sample=False,
            decoding=Contrast(lower=2, sparse=sparse, alpha=0.4),
            return_dict_in_generate=True,
            output_scores=True,
        )
        for sparse in (True, False)
    ]

    assert torch.equal(made[0].sequences, made[1].sequences)
    for sparse, dense in zip(made[0].scores, made[1].scores, strict=True):
        assert torch.allclose(sparse, dense, atol=1e-4)


def test_the_contrast_in_the_model_is_the_contrast_of_its_exits():
    model = multi_exit("llama", "head")
    ids = tiny.prompt(model)["input_ids"]

    exits = model.exit_logits(ids, exits=("original", 2))
    made = model(ids, decoding=Contrast(lower=2)).logits

    assert torch.allclose(made, contrast_logits(exits["original"], exits[2]), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize(
    "settings",
    [{}, {"num_beams": 3}, {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2}],
    ids=["greedy", "beams", "processors"],
)
def test_generation_with_cache_equals_without(family, rule, settings):
    model = multi_exit(family, "cast")
    ids = tiny.prompt(model)["input_ids"]
    settings = {"max_new_tokens": 7, "do_sample": False, "decoding": rule, **settings}

    cached, whole = (model.generate(ids, use_cache=use, **settings) for use in (True, False))

    assert torch.equal(cached, whole)


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_row_is_the_same_alone_and_in_a_left_padded_batch(projection, rule):
    model = multi_exit("llama", projection)
    rows, ids, mask = padded()
    settings = {"max_new_tokens": 6, "do_sample": False, "decoding": rule, "min_new_tokens": 6}

    together = model.generate(ids, attention_mask=mask, **settings)[:, ids.shape[1] :]
    alone = torch.cat([model.generate(row, **settings)[:, row.shape[1] :] for row in rows])

    assert torch.equal(together, alone)


def test_sampling_follows_the_contrasted_distribution():
    model = multi_exit("llama", "head")
    ids = tiny.prompt(model, rows=1)["input_ids"]
    rule = Contrast(lower=2, alpha=0.3)
    expected = model(ids, decoding=rule).logits[0, -1].exp()

    torch.manual_seed(0)
    drawn = model.generate(
        ids.expand(4000, -1), max_new_tokens=1, do_sample=True, top_k=0, decoding=rule
    )[:, -1]

    counts = torch.bincount(drawn, minlength=tiny.VOCAB).float()
    often = expected * 4000 >= 5
    chi_square = ((counts - expected * 4000) ** 2 / (expected * 4000))[often].sum()
    assert chi_square < 3 * often.sum()  # mean is the number of cells; 3 times it is beyond 1e-9


def test_streaming_and_stopping_criteria_work_as_in_transformers(capsys):
    class AfterTwo(StoppingCriteria):
        def __call__(self, ids, scores, **_):
            return torch.full((ids.shape[0],), ids.shape[1] >= 9)

    class Words:
        def decode(self, ids, **_):
            return " ".join(map(str, [int(i) for i in ids]))

    model = multi_exit("llama")
    ids = tiny.prompt(model, rows=1)["input_ids"]

    made = model.generate(
        ids,
        max_new_tokens=20,
        do_sample=False,
        decoding=Contrast(lower=2),
        streamer=TextStreamer(Words(), skip_prompt=True),
        stopping_criteria=StoppingCriteriaList([AfterTwo()]),
    )

    assert made.shape[1] <= 9
    assert str(int(made[0, 7])) in capsys.readouterr().out


def counted(module):
    """Count the rows that a module is called with."""
    calls = []
    module.register_forward_hook(lambda m, args, out: calls.append(args[0].shape[:-1].numel()))
    return calls


def test_only_exits_in_use_are_computed_and_only_at_positions_asked_for():
    model = multi_exit("llama", "lens")
    ids = tiny.prompt(model, rows=2, length=7)["input_ids"]
    unused, used = counted(model.exits["1"].linear), counted(model.exits["2"].linear)
    head = counted(model.lm_head)

    model(ids, decoding=FixedExit(exit=2), logits_to_keep=1)

    assert unused == []
    assert used == [2]
    assert [rows for rows in head if rows] == [2]


def test_the_original_head_computes_no_exit():
    model = multi_exit("llama", "lens")
    calls = [counted(each.linear) for each in model.exits.values()]

    model.generate(tiny.prompt(model)["input_ids"], max_new_tokens=3)

    assert calls == [[], [], []]


def test_blocks_above_the_exit_are_not_run():
    model = multi_exit("llama", "direct")
    calls = [counted(layer.self_attn.q_proj) for layer in model.model.layers]

    model.generate(
        tiny.prompt(model)["input_ids"],
        max_new_tokens=2,
        min_new_tokens=2,
        do_sample=False,
        decoding=FixedExit(exit=2),
    )

    assert [len(each) for each in calls] == [2, 2, 0, 0]


@pytest.mark.parametrize(
    "keep",
    [1, 3, 0, torch.tensor([0, 4]), torch.tensor([[1, 2], [3, 4]]), torch.ones(2, 7).bool()],
    ids=str,
)
def test_positions_are_cut_as_transformers_cuts_them(keep):
    model = multi_exit("llama", "head")
    ids = tiny.prompt(model)["input_ids"]
    own = model(ids, logits_to_keep=keep).logits

    whole = model(ids, decoding=FixedExit(exit="original"), logits_to_keep=keep).logits
    contrasted = model(ids, decoding=Contrast(lower=2), logits_to_keep=keep).logits

    assert torch.equal(whole, own)
    assert contrasted.shape == own.shape


def test_exits_at_the_last_block_and_at_the_embeddings():
    model = tiny.model_of("llama")
    ids = tiny.prompt(model)["input_ids"]
    states = model(ids, output_hidden_states=True).hidden_states
    attach_exits(model, (0, 4), "direct")

    said = model.exit_logits(ids, exits=(0, 4, "original"))

    assert torch.equal(said[4], said["original"])
    assert torch.allclose(said[0], model.lm_head(model.model.norm(states[0])), atol=1e-6)
    assert model.generate(ids, max_new_tokens=2, decoding=FixedExit(exit=0)).shape[1] > 7


def test_loss_is_the_cross_entropy_of_the_rule():
    model = multi_exit("llama", "head")
    ids = tiny.prompt(model)["input_ids"]

    output = model(ids, labels=ids, decoding=FixedExit(exit=2))

    expected = torch.nn.functional.cross_entropy(
        output.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
    )
    assert torch.allclose(output.loss, expected, atol=1e-5)
    output.loss.backward()
    assert model.exits["2"].linear.weight.grad.abs().sum() > 0
    assert model.exits["1"].linear.weight.grad is None


def test_loss_of_an_encoder_decoder_is_not_shifted():
    model = multi_exit("t5", "head")
    model.config.decoder_start_token_id = 1
    ids = tiny.prompt(model)["input_ids"]

    output = model(input_ids=ids, labels=ids, decoding=FixedExit(exit=2))

    expected = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), ids.flatten())
    assert torch.allclose(output.loss, expected, atol=1e-5)


def test_a_tuple_is_given_where_transformers_gives_one():
    model = multi_exit("llama")
    ids = tiny.prompt(model)["input_ids"]

    given = model(ids, decoding=FixedExit(exit=2), return_dict=False)

    assert isinstance(given, tuple)
    assert given[0].shape == (2, 7, tiny.VOCAB)


def test_any_function_can_contrast():
    model = multi_exit("llama", "head")
    ids = tiny.prompt(model)["input_ids"]
    exits = model.exit_logits(ids, exits=("original", 1))

    made = model(ids, decoding=Contrast(lower=1, function=lambda u, low: 2 * u - low)).logits

    assert torch.allclose(made, 2 * exits["original"] - exits[1], atol=1e-5)


def test_dola_reads_missing_exits_directly_and_rows_choose_alone():
    model = multi_exit("llama", "head", exits=(3,))
    rows, ids, mask = padded()
    settings = {"max_new_tokens": 4, "do_sample": False, "decoding": DoLa(layers=(0, 1, 2))}

    together = model.generate(ids, attention_mask=mask, min_new_tokens=4, **settings)
    alone = [model.generate(row, min_new_tokens=4, **settings) for row in rows]

    for made, row in zip(together, alone, strict=True):
        assert torch.equal(made[-4:], row[0, -4:])


def test_soft_caps_and_scales_reach_gathered_scores():
    for family, extra in (
        ("gemma2", {"final_logit_softcapping": 5.0}),
        ("cohere", {"logit_scale": 0.3}),
        ("granite", {"logits_scaling": 4.0}),
    ):
        model = multi_exit(family, "lens", **extra)
        ids = tiny.prompt(model)["input_ids"]

        sparse, dense = (
            model(ids, decoding=Contrast(lower=2, alpha=0.5, sparse=s), logits_to_keep=1).logits
            for s in (True, False)
        )

        assert torch.allclose(sparse, dense, atol=1e-4), family


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_give_finite_normalised_scores(dtype):
    model = multi_exit("llama", "lens").to(dtype)
    ids = tiny.prompt(model)["input_ids"]

    scores = model(ids, decoding=Contrast(lower=2)).logits

    assert scores.dtype == torch.float32
    assert scores.isfinite().all()
    assert torch.allclose(scores.logsumexp(-1), torch.zeros(2, 7), atol=1e-3)


def test_it_stays_a_model_of_transformers():
    model = multi_exit("llama")

    assert isinstance(model, MultiExitModel)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert type(copy.deepcopy(model)) is type(model)
    made = copy.deepcopy(model).generate(
        torch.tensor([[5, 6]]), max_new_tokens=2, decoding=FixedExit(exit=1)
    )
    assert made.shape[1] >= 3


def test_two_models_and_threads_do_not_share_decoding_state():
    model = multi_exit("llama")
    ids = tiny.prompt(model)["input_ids"]
    plain = model(ids).logits

    model(ids, decoding=FixedExit(exit=1))

    assert torch.equal(model(ids).logits, plain)
    assert not any(layer._forward_hooks for layer in model.model.layers)
    assert not any("forward" in vars(layer) for layer in model.model.layers)


@pytest.mark.parametrize(
    ("rule", "error", "message"),
    [
        (FixedExit(exit=9), ExitNotFoundError, "exit 9 does not exist: the model has 4 blocks"),
        (Contrast(lower=4, upper="original"), ExitNotFoundError, "exit 4 is not attached"),
        (DoLa(layers=(4,)), ConfigError, "below the last"),
        ("original:2", ConfigError, "decoding must be"),
    ],
)
def test_rules_that_the_model_cannot_follow_are_refused_before_running(rule, error, message):
    model = multi_exit("llama")

    with pytest.raises(error, match=message):
        model.generate(torch.tensor([[5, 6]]), max_new_tokens=2, decoding=rule)


def test_exits_that_cannot_be_are_refused():
    with pytest.raises(ExitNotFoundError, match="exit 5 does not exist"):
        attach_exits(tiny.model_of("llama"), (5,))


def test_empty_and_overlong_prompts_are_refused():
    model = multi_exit("llama")

    with pytest.raises(InputError, match="no tokens"):
        model.generate(torch.empty(1, 0, dtype=torch.long))
    with pytest.raises(InputError, match="70 tokens, the model's context 64"):
        model.generate(torch.ones(1, 70, dtype=torch.long))


def test_an_unlisted_family_is_probed_and_a_wrong_reading_refused():
    model = tiny.model_of("qwen3_moe")
    attach_exits(model, (2,))
    without_norm = dataclasses.replace(model.anatomy, finishers=())

    with pytest.raises(ConfigError, match="its exits would be wrong"):
        probe(model, without_norm)


def test_freezing_leaves_only_exits_to_train(tmp_path):
    tiny.model_of("llama").save_pretrained(tmp_path)

    model = AutoMultiExitModel.from_pretrained(
        tmp_path, MultiExitConfiguration("lens", "1;2", freeze_parameters=True)
    )

    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    assert trained
    assert all(name.startswith("exits.") for name in trained)


def test_pipelines_take_it(tmp_path, byte_tokenizer):
    model = multi_exit("llama", vocab_size=len(byte_tokenizer))

    made = pipeline("text-generation", model=model, tokenizer=byte_tokenizer)(
        "ab", max_new_tokens=3, do_sample=False, decoding=Contrast(lower=2)
    )

    assert made[0]["generated_text"].startswith("ab")
