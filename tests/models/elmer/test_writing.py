"""A text depends on its source and the settings: on no batch mate, padding or reference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.elmer.small import BOS, EOS, HEADS, MASK, PAD, PLACES, RULES, fresh, shared, sources
from models.elmer.small import targets as labels_of
from offramp.decoding.oneshot import OneShot
from offramp.errors import ConfigError
from offramp.models.elmer.canvas import source_sizes

WAYS = {
    "plain": ("plain", {}, {}),
    "ctc": ("ctc", {}, {}),
    "dag lookahead": ("dag", {}, {}),
    "dag greedy": ("dag", {}, {"path": "greedy"}),
    "dag viterbi": ("dag", {}, {"path": "viterbi"}),
    "dag beam": ("dag", {}, {"path": "beam"}),
    "soft": ("plain", {"soft_exit": True}, {}),
    "soft ctc": ("ctc", {"soft_exit": True}, {}),
    "length": ("plain", {"length_predictor": True}, {}),
    "lengths": ("plain", {"length_predictor": True}, {"lengths": 3}),
    "refined": ("plain", {}, {"refine_steps": 2}),
    "refined lengths": ("plain", {"length_predictor": True}, {"lengths": 2, "refine_steps": 1}),
    "ngram": ("plain", {}, {"no_repeat_ngram": 2}),
    "dag ngram": ("dag", {}, {"no_repeat_ngram": 1}),
    "laid source": ("plain", {"canvas_source": True}, {}),
    "laid source, refined": ("plain", {"canvas_source": True}, {"refine_steps": 1}),
    "laid source ctc, hard": ("ctc", {"canvas_source": True}, {"exit_rule": "top_gap"}),
    "collapsed": ("plain", {}, {"collapse_repeats": True}),
    "given length": ("plain", {}, {"canvas_length": 7}),
    "published start": ("plain", {"canvas_start_token_id": BOS}, {"refine_steps": 1}),
    **{rule: ("plain", {"gates": True}, {"exit_rule": rule}) for rule in RULES},
    **{
        f"{head} {rule}": (head, {}, {"exit_rule": rule})
        for head in ("ctc", "dag")
        for rule in ("top_gap", "patience")
    },
    "lengths and hard": (
        "plain",
        {"length_predictor": True},
        {"lengths": 2, "exit_rule": "top_probability"},
    ),
    "soft and hard": ("plain", {"soft_exit": True}, {"exit_rule": "top_gap"}),
    "refined and hard": ("plain", {}, {"exit_rule": "top_gap", "refine_steps": 2}),
}


def way_of(name):
    head, model, how = WAYS[name]
    if "exit_rule" in how:
        how = {**how, "threshold": RULES[how["exit_rule"]]}
    return shared(**HEADS[head], **model), OneShot(**how)


def written(model, ids, mask, decoding, **more):
    return model.generate(ids, mask, decoding=decoding, return_dict_in_generate=True, **more)


def row_of(output, row):
    """Give what is known of one text, without the filling."""
    there = output.places[row] >= 0
    assert (output.sequences[row][~there] == PAD).all()
    assert (output.exits[row][~there] == -1).all()
    assert (output.scores[row][~there] == 0).all()
    return (
        output.sequences[row][there].tolist(),
        output.exits[row][there].tolist(),
        output.places[row][there].tolist(),
        int(output.canvas_lengths[row]),
    ), output.scores[row][there]


@pytest.mark.parametrize("name", WAYS)
@settings(max_examples=5)
@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    side=st.sampled_from(["right", "left"]),
    seed=st.integers(0, 99),
)
def test_a_text_alone_is_the_text_in_a_batch(name, lengths, side, seed):
    model, decoding = way_of(name)
    ids, mask = sources([*lengths, 8], side=side, seed=seed)

    together = written(model, ids, mask, decoding)

    for row, length in enumerate(lengths):
        own = ids[row][mask[row] > 0][None]
        alone, scores = row_of(written(model, own, torch.ones_like(own), decoding), 0)
        facts, found = row_of(together, row)
        assert facts == alone
        assert torch.allclose(found, scores, atol=1e-5)
        assert len(own[0]) == length


@pytest.mark.parametrize("name", WAYS)
def test_the_ways_to_write_give_texts_that_differ_between_sources(name):
    model, decoding = way_of(name)

    output = written(model, *sources([5, 2, 6, 1, 4]), decoding)

    assert len({str(row) for row in output.sequences.tolist()}) > 1
    assert output.sequences.shape[1] > 3
    if decoding.exit_rule is not None:
        assert len(set(output.exits[output.exits > 0].tolist())) > 1


@pytest.mark.parametrize("name", ["plain", "ctc", "dag lookahead", "lengths", "top_gap"])
def test_no_reference_reaches_a_text(name):
    model, decoding = way_of(name)
    ids, mask = sources([5, 2])

    with_labels = written(model, ids, mask, decoding, labels=labels_of([1, 2]))

    wanted = written(model, ids, mask, decoding)
    for key in wanted:
        assert torch.equal(with_labels[key], wanted[key]), key


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("head", HEADS)
def test_without_labels_a_canvas_has_the_size_that_its_source_gives(head, training):
    model, (ids, mask) = fresh(**HEADS[head]).train(training), sources([5, 2])

    output = model(ids, mask)
    texts = written(model.eval(), ids, mask, OneShot())

    sizes = source_sizes(model.config, torch.tensor([5, 2])).tolist()
    assert output.canvas_lengths.tolist() == texts.canvas_lengths.tolist() == sizes
    assert output.logits.shape[1] == max(sizes)


def test_an_attention_mask_left_out_is_all_but_padding():
    model, (ids, mask) = shared(), sources([5, 2])

    assert torch.equal(model.generate(ids), model.generate(ids, mask))


def test_encoder_outputs_serve_instead_of_sources():
    model, (ids, mask) = shared(), sources([5, 2], side="left")
    encoded = model.model.encoder(ids, mask)
    encoded.last_hidden_state = model.encode(ids, mask)

    found = model.generate(attention_mask=mask, encoder_outputs=encoded)

    assert torch.equal(found, model.generate(ids, mask))


def test_texts_are_the_same_each_time():
    model, (ids, mask) = shared(), sources([5, 2])

    assert torch.equal(model.generate(ids, mask), model.generate(ids, mask))


@pytest.mark.parametrize("head", HEADS)
def test_a_generator_s_seed_decides_what_is_drawn_and_no_global_one_does(head):
    model, (ids, mask) = shared(**HEADS[head]), sources([5, 2])

    def drawn(seed):
        return model.generate(
            ids,
            mask,
            decoding=OneShot(temperature=1.5),
            generator=torch.Generator().manual_seed(seed),
        ).tolist()

    state = torch.get_rng_state()
    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_texts_are_cut_at_max_new_tokens(head, limit):
    model, (ids, mask) = shared(**HEADS[head]), sources([5, 2, 6])

    output = written(model, ids, mask, OneShot(), max_new_tokens=limit)
    whole = written(model, ids, mask, OneShot())

    assert whole.sequences.shape[1] > limit
    assert output.sequences.shape[1] <= limit
    if head == "plain":
        assert output.canvas_lengths.tolist() == [limit] * 3
    else:
        assert output.sequences.tolist() == whole.sequences[:, :limit].tolist()


def test_a_canvas_of_one_place_and_a_source_of_an_end_token_are_written():
    for head in HEADS:
        model = shared(**HEADS[head])
        output = written(model, torch.tensor([[EOS]]), None, OneShot(canvas_length=1))

        assert output.canvas_lengths.tolist() == [1]
        assert output.sequences.shape == (1, 0 if head == "dag" else 1)


def test_a_source_of_padding_alone_does_not_spoil_its_batch():
    model, (ids, mask) = shared(), sources([5, 2])
    ids, mask = (torch.cat([each, each[:1] * 0 + fill]) for each, fill in ((ids, PAD), (mask, 0)))

    found = model.generate(ids, mask)

    assert torch.equal(
        found[:2, : model.generate(ids[:2], mask[:2]).shape[1]], model.generate(ids[:2], mask[:2])
    )


def test_a_canvas_longer_than_the_model_knows_is_cut_or_refused():
    model = shared(**{**HEADS["plain"], "canvas_ratio": 9.0})

    assert written(model, *sources([8]), OneShot()).canvas_lengths.tolist() == [PLACES]
    with pytest.raises(ConfigError, match=f"canvas_length must be at most {PLACES}"):
        model.generate(*sources([8]), decoding=OneShot(canvas_length=PLACES + 1))


@pytest.mark.parametrize(
    ("head", "how", "said"),
    [
        ("plain", {"lengths": 2}, "lengths=2 needs a model with length_predictor"),
        ("ctc", {"refine_steps": 1}, "refine_steps rewrites the canvas of a 'plain' head"),
        ("ctc", {"no_repeat_ngram": 2}, "not for 'ctc'"),
        ("plain", {"path": "viterbi"}, "path 'viterbi' is for a 'dag' head"),
    ],
)
def test_settings_that_the_model_cannot_serve_are_refused(head, how, said):
    with pytest.raises(ConfigError, match=said):
        shared(**HEADS[head]).generate(*sources([3]), decoding=OneShot(**how))


def test_more_lengths_than_there_are_are_refused():
    with pytest.raises(ConfigError, match=f"lengths must be at most {PLACES}"):
        shared(length_predictor=True).generate(*sources([3]), decoding=OneShot(lengths=PLACES + 1))


def test_of_several_lengths_the_surest_text_is_kept():
    model, (ids, mask) = shared(length_predictor=True), sources([5, 2, 6, 3])
    logits = model(ids, mask).length_logits
    likeliest = logits.topk(3, dim=-1).indices + 1

    output = written(model, ids, mask, OneShot(lengths=3))

    other = 0
    for row in range(4):
        tried = [
            written(model, ids[row : row + 1], mask[row : row + 1], OneShot(canvas_length=size))
            for size in likeliest[row].tolist()
        ]
        means = [float(each.scores.sum() / (each.places >= 0).sum()) for each in tried]
        best = max(range(3), key=means.__getitem__)
        other += best != 0
        assert row_of(output, row)[0] == row_of(tried[best], 0)[0]
    assert other  # and not always the likeliest length's
    assert output.layers.tolist() == [int(likeliest.sum())] * 4


def test_of_one_length_the_likeliest_is_taken():
    model, (ids, mask) = shared(length_predictor=True), sources([5, 2])
    likeliest = model(ids, mask).length_logits.argmax(-1) + 1

    assert written(model, ids, mask, OneShot()).canvas_lengths.tolist() == likeliest.tolist()


def test_no_text_of_no_token_wins_among_lengths():
    """Its mean log-probability, of nothing, would be 0 and so the best there is."""
    model, (ids, mask) = fresh(length_predictor=True), sources([5])
    with torch.no_grad():
        model.length_head.linear.weight.zero_()
        model.length_head.linear.bias.copy_(torch.linspace(1, -1, PLACES))  # 1 and 2 places
        model.final_logits_bias[:, BOS] = 20.0

    output = written(model, ids, mask, OneShot(lengths=2))

    assert output.canvas_lengths.tolist() == [2]
    assert output.sequences.shape == (1, 1)


class Canvases:
    """Notes what canvases a model is given."""

    def __init__(self, model):
        self.seen = []
        embed = model.embed

        def note(tokens):
            self.seen.append(tokens.clone())
            return embed(tokens)

        model.embed = note


@pytest.mark.parametrize(("temperature", "seed"), [(0.0, 7), (1.0, 2)])
@pytest.mark.parametrize("start", [None, BOS])
def test_refining_masks_the_least_sure_tokens_and_keeps_the_others(temperature, seed, start):
    model, (ids, mask) = fresh(canvas_start_token_id=start), sources([5], seed=seed)
    with torch.no_grad():
        model.final_logits_bias[:, EOS] = -20.0  # so that whole canvases are read
    canvases = Canvases(model)
    first = written(
        model,
        ids,
        mask,
        OneShot(temperature=temperature, canvas_length=9),
        generator=torch.Generator().manual_seed(3),
    )
    del canvases.seen[:]

    output = written(
        model,
        ids,
        mask,
        OneShot(temperature=temperature, canvas_length=9, refine_steps=2),
        generator=torch.Generator().manual_seed(3),
    )

    blank, second, third = (each[0].tolist() for each in canvases.seen)
    filler = [MASK if start is None else start, *[MASK] * 8]
    assert blank == filler
    text = first.sequences[0].tolist()
    unsure = first.scores[0].argsort()[:6].tolist()  # 9 places: 6, then 3 are masked
    assert 0 in unsure  # where a canvas may begin with something else
    assert second == [filler[k] if k in unsure else text[k] for k in range(9)]
    hidden = [k for k in range(9) if third[k] in (MASK, start)]
    assert len(hidden) == 3
    kept = [k for k in range(9) if k not in hidden]
    assert [third[k] for k in kept] == [output.sequences[0, k] for k in kept]
    assert output.sequences[0].tolist() != text
    assert output.layers.tolist() == [27] * 4


def test_a_rewritten_token_has_the_exit_of_its_last_writing():
    model, (ids, mask) = shared(), sources([5, 3, 6])
    hard = {"exit_rule": "top_gap", "threshold": RULES["top_gap"], "canvas_length": 9}

    first = written(model, ids, mask, OneShot(**hard))
    output = written(model, ids, mask, OneShot(**hard, refine_steps=1))

    assert (output.layers > first.layers).all()
    pairs = [
        (dict(zip(one.places[row].tolist(), one.exits[row].tolist(), strict=True)))
        for one in (first, output)
        for row in range(3)
    ]
    assert any(
        before.get(place) != exit
        for before, after in zip(pairs[:3], pairs[3:], strict=True)
        for place, exit in after.items()
        if place >= 0 and place in before
    )
