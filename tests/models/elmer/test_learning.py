"""Losses are sums over rows, over the number of target tokens: no mate and no padding counts."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.elmer.small import BOS, EOS, HEADS, MASK, VOCAB, fresh, shared, sources, targets
from offramp.errors import InputError
from offramp.models.elmer.canvas import mask_of
from offramp.models.elmer.heads import LengthHead, Steps, length_loss
from offramp.models.elmer.learning import aligned, glance, loss_at, shown_at_random, target_for

NO = -100


def target_of(head, labels, lengths, *, tokens=None, **more):
    config = shared(**HEADS[head], **more).config
    return target_for(config, torch.tensor(labels), mask_of(torch.tensor(lengths)), tokens=tokens)


def nats(logits, row, place, token):
    return -float(logits[row, place].log_softmax(-1)[token])


def test_all_places_from_the_end_on_weigh_as_much_as_one_token():
    labels = [[7, 8, EOS], [9, EOS, NO]]
    target = target_of("plain", labels, [5, 3])
    logits = torch.randn(2, 5, VOCAB, generator=torch.Generator().manual_seed(0))

    loss = loss_at(logits, target)

    one = [nats(logits, 0, 0, 7), nats(logits, 0, 1, 8)]
    one.append(sum(nats(logits, 0, place, EOS) for place in (2, 3, 4)) / 3)
    two = [nats(logits, 1, 0, 9), sum(nats(logits, 1, place, EOS) for place in (1, 2)) / 2]
    assert float(loss) == pytest.approx((sum(one) + sum(two)) / 5, rel=1e-5)


def test_without_slack_nothing_behind_the_end_is_learned():
    target = target_of("plain", [[9, EOS, NO]], [4], canvas_slack=False)
    logits = torch.randn(1, 4, VOCAB)

    loss = loss_at(logits, target)

    wanted = (nats(logits, 0, 0, 9) + nats(logits, 0, 1, EOS)) / 2
    assert float(loss) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("head", HEADS)
@settings(max_examples=8)
@given(seed=st.integers(0, 999))
def test_a_batch_s_loss_is_that_of_its_rows(head, seed):
    """With the tokens of all of it as what each part is divided by."""
    lengths, sizes = [4, 2, 5], [6, 3, 7]
    model = shared(**HEADS[head], length_predictor=head == "plain")
    ids, mask = sources([5, 2, 6], seed=seed)
    labels = targets(lengths, seed=seed)
    canvas = torch.full((3, 7), MASK)
    places = mask_of(torch.tensor(sizes)).long()

    def loss(rows, width, size, **more):
        return model(
            ids[rows],
            mask[rows],
            canvas[rows, :size],
            places[rows, :size],
            labels=labels[rows, :width],
            **more,
        ).loss

    whole = loss(slice(0, 3), 5, 7)
    parts = [
        loss(slice(row, row + 1), lengths[row], sizes[row], num_items_in_batch=11)
        for row in range(3)
    ]

    assert torch.allclose(whole, sum(parts), atol=1e-5)
    assert torch.allclose(whole * 2, loss(slice(0, 3), 5, 7, num_items_in_batch=5.5), atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_padding_of_labels_changes_nothing(head):
    model, (ids, mask) = shared(**HEADS[head]), sources([5, 2])
    labels = targets([4, 3])
    wide = torch.nn.functional.pad(labels, (0, 3), value=NO)

    assert torch.allclose(
        model(ids, mask, labels=wide).loss, model(ids, mask, labels=labels).loss, atol=1e-6
    )


@pytest.mark.parametrize("head", ["ctc", "dag"])
def test_rows_that_do_not_fit_are_left_out_and_the_others_learned(head):
    model, (ids, mask) = shared(**HEADS[head]), sources([2, 2])
    labels = targets([20, 3])
    labels[0] = torch.where(labels[0] >= 0, 7, NO)
    labels[0, 19] = EOS
    canvas = torch.full((2, 5), MASK)

    both = model(ids, mask, canvas, labels=labels, num_items_in_batch=1)
    fitting = model(ids[1:], mask[1:], canvas[1:], labels=labels[1:, :3], num_items_in_batch=1)

    assert both.loss.isfinite()
    assert torch.allclose(both.loss, fitting.loss, atol=1e-5)


@pytest.mark.parametrize("head", ["ctc", "dag"])
def test_a_batch_in_which_nothing_fits_is_refused(head):
    model, (ids, mask) = shared(**HEADS[head]), sources([2])

    with pytest.raises(InputError, match="no target of this batch fits its canvas") as caught:
        model(ids, mask, torch.full((1, 5), MASK), labels=targets([20]))

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("head", ["ctc", "dag"])
def test_scores_that_are_no_numbers_give_no_loss_that_is_one(head):
    target = target_of(head, [[7, 8, EOS], [9, EOS, NO]], [5, 5])
    logits = torch.randn(2, 5, VOCAB)
    logits[0] = math.nan
    steps = torch.zeros(2, 5, 5).triu(1) + torch.full((5, 5), -torch.inf).tril()

    assert loss_at(logits, target, transitions=steps).isnan()


def test_ctc_learns_no_begin_and_no_end_and_dag_one_begin():
    """Tokenizers like BART's put a BOS before every text."""
    rows, ragged = [[BOS, 7, 8, EOS], [9, EOS, NO, NO]], [[7, 8, EOS, NO], [9, EOS, NO, NO]]

    for labels in (rows, ragged):
        ctc = target_of("ctc", labels, [6, 6])
        dag = target_of("dag", labels, [6, 6])
        assert ctc.labels.tolist() == [[7, 8, NO, NO], [9, NO, NO, NO]]
        assert dag.labels.tolist() == [[BOS, 7, 8, EOS, NO], [BOS, 9, EOS, NO, NO]]
    assert target_of("ctc", rows, [6, 6]).tokens == 6


def test_a_plain_canvas_keeps_a_begin_that_its_labels_have():
    assert target_of("plain", [[BOS, 7, EOS]], [3]).laid.tolist() == [[BOS, 7, EOS]]


@pytest.mark.parametrize("head", HEADS)
def test_an_empty_target_is_no_trouble(head):
    model, (ids, mask) = shared(**HEADS[head]), sources([4, 3])
    labels = torch.tensor([[EOS, NO, NO], [7, 8, EOS]])

    assert model(ids, mask, labels=labels).loss.isfinite()


@settings(max_examples=40)
@given(
    seed=st.integers(0, 9999),
    share=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)
def test_glancing_shows_its_share_of_what_was_wrong_and_nothing_beyond_a_canvas(seed, share):
    torch.manual_seed(seed)
    answers = torch.randint(0, 4, (3, 9))
    answers[1, 4:] = NO
    answers[2] = NO
    guesses = torch.randint(0, 4, (3, 9))

    shown = glance(guesses, answers, share)

    wrong = ((guesses != answers) & (answers != NO)).sum(-1)
    assert shown.sum(-1).tolist() == [round(float(each) * share) for each in wrong]
    assert not shown[answers == NO].any()


def test_glancing_chooses_places_at_random():
    torch.manual_seed(0)
    answers = torch.arange(8).expand(4000, 8)

    shown = glance(torch.full_like(answers, 9), answers, 0.5)

    assert torch.allclose(shown.double().mean(0), torch.full((8,), 0.5).double(), atol=0.04)


def test_three_of_ten_places_are_shown_between_layers_and_only_those_with_an_answer():
    torch.manual_seed(0)
    answers = torch.full((1000, 10), 5)
    answers[:, 5:] = NO

    shown = shown_at_random(answers)

    assert float(shown[:, :5].double().mean()) == pytest.approx(0.3, abs=0.03)
    assert not shown[:, 5:].any()


@pytest.mark.parametrize("head", ["ctc", "dag"])
def test_what_is_shown_of_a_target_stands_on_its_likeliest_alignment(head):
    model, (ids, mask) = shared(**HEADS[head]), sources([4, 2])
    labels = targets([5, 3])
    output = model(ids, mask)
    target = target_for(model.config, labels, mask_of(output.canvas_lengths))

    answers = aligned(output.logits, target, output.transitions)

    assert answers.shape == output.logits.shape[:2]
    for row, length in enumerate(output.canvas_lengths.tolist()):
        assert (answers[row, length:] == NO).all()
        read = [token for token in answers[row].tolist() if token not in (NO, MASK)]
        text = target.labels[row][target.labels[row] >= 0].tolist()
        merged = [t for k, t in enumerate(read) if k == 0 or t != read[k - 1]]
        assert (merged if head == "ctc" else read) == text


def test_a_length_head_reads_neither_padding_nor_a_target():
    torch.manual_seed(0)
    head = LengthHead(4, 6)
    states, mask = torch.randn(1, 3, 4), torch.tensor([[True, True, False]])
    other = states.clone()
    other[:, 2] = 9.0

    assert torch.equal(head(states, mask), head(other, mask))
    assert torch.allclose(head(states, mask), head(states[:, :2], None))


def test_the_loss_of_a_length_is_that_of_its_class():
    scores = torch.randn(2, 6)
    logs = scores.log_softmax(-1)

    assert torch.allclose(length_loss(scores, torch.tensor([1, 6])), -logs[0, 0] - logs[1, 5])
    assert torch.allclose(length_loss(scores[:1], torch.tensor([99])), -logs[0, 5])


def test_a_model_with_a_length_predictor_learns_its_targets_lengths():
    model, (ids, mask) = shared(length_predictor=True), sources([5, 2])
    labels = targets([4, 2])

    output = model(ids, mask, labels=labels)

    lengths = length_loss(output.length_logits, torch.tensor([4, 2])) / 6
    assert torch.allclose(output.loss, output.exit_losses.mean() + lengths)


def test_steps_of_a_path_go_forwards_and_sum_to_one():
    torch.manual_seed(0)
    steps = Steps(8, 2)(torch.randn(2, 5, 8), torch.tensor([5, 3])).exp()

    assert torch.allclose(steps[0, :4].sum(-1), torch.ones(4))
    assert torch.allclose(steps[1, :2].sum(-1), torch.ones(2))
    assert not steps.tril().any()
    assert not steps[1, :, 3:].any()


@pytest.mark.parametrize("name", ["ctc", "dag"])
def test_every_part_of_a_model_learns(name):
    model = fresh(**HEADS[name], soft_exit=True, exit_loss="all").train()
    ids, mask = sources([5, 3])

    model(ids, mask, labels=targets([4, 3])).loss.backward()

    silent = [key for key, each in model.named_parameters() if each.grad is None]
    assert silent == []
