"""Answers are shown in training only; what has seen its answer is not scored, for ``plain``."""

import pytest
import torch

from models.elmer.small import EOS, HEADS, MASK, fresh, shared, sources, targets
from offramp.models.elmer.canvas import mask_of
from offramp.models.elmer.decoder import sight_of
from offramp.models.elmer.learning import aligned, loss_at, target_for
from offramp.models.elmer.passage import Passage

IDS, MASKS = sources([5, 2, 6])
LABELS = targets([4, 2, 5])


class Notes:
    """Notes what is handed from layer to layer, what is embedded and what is asked of the head."""

    def __init__(self, model):
        self.handed, self.canvases, self.asked = [], [], 0
        join, embed, score = model.join, model.embed, model.score

        def noted_join(states, tokens):
            self.handed.append(tokens.clone())
            return join(states, tokens)

        def noted_embed(tokens):
            self.canvases.append(tokens.clone())
            return embed(tokens)

        def noted_score(states):
            self.asked += 1
            return score(states)

        model.join, model.embed, model.score = noted_join, noted_embed, noted_score


def run(model, labels=LABELS):
    """Take the canvases of these labels, just as long as each target, through a model."""
    lengths = (labels >= 0).sum(-1)
    source = model.encode(IDS, MASKS)
    places = mask_of(lengths)
    target = target_for(model.config, labels, places)
    passage = Passage(model, sight_of(source, MASKS, places), target)
    canvas = torch.full(places.shape, MASK)
    return passage, passage.run(canvas, None), target


def said_by_itself(model):
    """Give what each exit would hand over if nothing were shown."""
    notes = Notes(model)
    run(model.eval())
    return notes.handed


def test_leak_free_shows_the_same_answers_at_all_layers_and_scores_none_of_them():
    torch.manual_seed(0)
    model = fresh(soft_exit=True, exit_loss="all").train()
    notes = Notes(model)

    passage, output, target = run(model)

    shown = passage._shown
    assert shown.any()
    assert not shown[target.laid == -100].any()
    handed = [tokens for tokens in notes.handed if tokens.shape == target.laid.shape]
    assert len(handed) == 3
    for exit, tokens in enumerate(handed, start=1):
        own = model.score(output.decoder_hidden_states[exit]).argmax(-1)
        assert torch.equal(tokens, torch.where(shown, target.laid, own))
    laid = target.laid.masked_fill(shown, -100)
    for exit, loss in enumerate(output.exit_losses, start=1):
        scores = model.score(output.decoder_hidden_states[exit]).log_softmax(-1)
        nats = -scores.gather(-1, laid.clamp(min=0)[..., None])[..., 0]
        assert float(loss.detach()) == pytest.approx(
            float(nats[laid >= 0].detach().sum() / 11), rel=1e-5
        )


def test_published_draws_anew_at_each_layer_and_scores_everything():
    torch.manual_seed(0)
    model = fresh(soft_exit=True, exit_loss="all", soft_training="published").train()
    notes = Notes(model)

    _, output, target = run(model)

    own = [model.score(output.decoder_hidden_states[exit]).argmax(-1) for exit in range(1, 4)]
    shown = [
        (tokens != mine) & (tokens == target.laid)
        for tokens, mine in zip(notes.handed, own, strict=False)
    ]
    assert not torch.equal(shown[0], shown[1])
    scores = model.score(output.decoder_hidden_states[-1]).log_softmax(-1)
    nats = -scores.gather(-1, target.laid.clamp(min=0)[..., None])[..., 0]
    wanted = nats[target.laid >= 0].sum() / 11
    assert float(output.exit_losses[-1]) == pytest.approx(float(wanted.detach()), rel=1e-5)


@pytest.mark.parametrize("soft", ["leak_free", "published"])
def test_nothing_is_shown_when_the_model_is_not_in_training(soft):
    model = fresh(soft_exit=True, soft_training=soft, glancing=1.0).eval()
    notes = Notes(model)

    passage, output, _ = run(model)

    assert passage._shown is None
    for exit, tokens in enumerate(notes.handed[:3], start=1):
        own = model.score(output.decoder_hidden_states[exit]).argmax(-1)
        assert torch.equal(tokens, own)
    assert all((canvas == MASK).all() for canvas in notes.canvases[:1])
    other = LABELS.clone()
    other[other > EOS] = 5
    assert torch.equal(run(model, other)[1].logits, output.logits)


@pytest.mark.parametrize("head", HEADS)
def test_without_a_target_a_model_in_training_reads_none(head):
    torch.manual_seed(0)
    model = fresh(**HEADS[head], soft_exit=True, glancing=1.0)

    assert torch.equal(model.train()(IDS, MASKS).logits, model.eval()(IDS, MASKS).logits)


@pytest.mark.parametrize("head", ["ctc", "dag"])
def test_paths_and_alignments_are_never_shown_between_layers(head):
    model = fresh(**HEADS[head], soft_exit=True)

    def loss(training):
        return model.train(training)(IDS, MASKS, labels=LABELS).loss

    assert torch.equal(loss(training=True), loss(training=False))


def test_no_glancing_is_one_pass_over_masks():
    model = fresh(glancing=0.0).train()
    notes = Notes(model)

    run(model)

    assert len(notes.canvases) == 1
    assert (notes.canvases[0] == MASK).all()


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_glancing_puts_its_share_of_what_was_wrong_on_the_canvas(share):
    torch.manual_seed(0)
    model = fresh(glancing=share)
    _, guessed, target = run(model.eval())
    there = target.laid >= 0
    wrong = ((guessed.logits.argmax(-1) != target.laid) & there).sum(-1)
    notes = Notes(model.train())

    run(model)

    blank, shown = notes.canvases
    assert (blank == MASK).all()
    assert not ((shown != MASK) & ~there).any()
    assert (shown != MASK).sum(-1).tolist() == [round(int(each) * share) for each in wrong]
    assert wrong.sum() >= 6


@pytest.mark.parametrize("head", ["ctc", "dag"])
def test_glancing_puts_what_stands_on_an_alignment_on_the_canvas(head):
    torch.manual_seed(0)
    model = fresh(**HEADS[head], glancing=1.0)
    guessed = model.eval()(IDS, MASKS, labels=LABELS)
    target = target_for(model.config, LABELS, mask_of(guessed.canvas_lengths))
    answers = aligned(guessed.logits, target, guessed.transitions)
    notes = Notes(model.train())

    model(IDS, MASKS, labels=LABELS)

    shown = notes.canvases[1]
    put = shown != MASK
    assert put.any(-1).sum() >= 2
    assert torch.equal(shown[put], answers[put])


def test_what_was_glanced_at_is_not_scored_and_the_rest_is():
    torch.manual_seed(0)
    model = fresh(glancing=0.5).train()
    notes = Notes(model)

    _, output, target = run(model)

    shown = notes.canvases[1] != MASK
    assert torch.equal(notes.canvases[1][shown], target.laid[shown])
    laid = target.laid.masked_fill(shown, -100)
    scores = output.logits.log_softmax(-1)
    nats = -scores.gather(-1, laid.clamp(min=0)[..., None])[..., 0]
    assert float(output.loss.detach()) == pytest.approx(
        float(nats[laid >= 0].detach().sum() / 11), rel=1e-5
    )


@pytest.mark.parametrize("head", ["ctc", "dag"])
def test_an_alignment_or_a_path_learns_the_whole_target_whatever_was_glanced_at(head):
    torch.manual_seed(0)
    model = fresh(**HEADS[head], glancing=1.0).train()
    notes = Notes(model)

    output = model(IDS, MASKS, labels=LABELS)

    assert (notes.canvases[1] != MASK).any()
    target = target_for(model.config, LABELS, mask_of(output.canvas_lengths))
    whole = loss_at(output.logits, target, transitions=output.transitions)
    assert torch.equal(output.loss, whole)


def test_a_guess_is_made_without_answers():
    """Else what is shown between layers would make the guess look better than it is."""
    torch.manual_seed(0)
    model = fresh(soft_exit=True, glancing=0.5).train()
    notes = Notes(model)
    run(model)
    guess = notes.handed[:3]

    alone = said_by_itself(fresh(soft_exit=True))

    assert len(notes.handed) == 6
    for tokens, own in zip(guess, alone[:3], strict=True):
        there = (LABELS >= 0)[:, : tokens.shape[1]]
        assert torch.equal(tokens[there], own[there])


def test_glancing_is_off_where_exits_are_given():
    model = fresh(glancing=1.0).train()
    notes = Notes(model)

    model(IDS, MASKS, labels=LABELS, exits=torch.full_like(LABELS, 2))

    assert len(notes.canvases) == 1


@pytest.mark.parametrize(
    ("more", "times"),
    [
        ({}, 1),
        ({"exit_loss": "all"}, 4),
        ({"soft_exit": True}, 4),
        ({"soft_exit": True, "exit_loss": "all"}, 4),
    ],
)
def test_the_head_is_asked_once_for_each_exit_that_says_something(more, times):
    model = fresh(**more)
    notes = Notes(model)

    model(IDS, MASKS, labels=LABELS)

    assert notes.asked == times


@pytest.mark.parametrize("learning", ["last", "all"])
def test_the_loss_is_the_mean_of_the_exits_that_learn(learning):
    model = shared(exit_loss=learning)

    output = model(IDS, MASKS, labels=LABELS)

    assert len(output.exit_losses) == (1 if learning == "last" else 4)
    assert torch.allclose(output.loss, output.exit_losses.mean())
    assert len(output.decoder_hidden_states) == 5
