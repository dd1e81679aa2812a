"""A loss in a metric of whole texts is found, tested in order, and held against other texts."""

import pytest
import torch

import tiny
from offramp import attach_exits
from offramp.errors import ConfigError, InputError
from offramp.evaluation.replay import Ladder
from offramp.evaluation.text_risk import METRICS, Asked, TextRisk, asked_of, promise_of_texts

THRESHOLDS = (0.9, 0.3, 0.03)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr("offramp.evaluation.text_risk.THRESHOLDS", THRESHOLDS)


class Words:
    """A tokenizer whose words are the tokens' numbers."""

    pad_token_id = 0

    def decode(self, tokens, *, skip_special_tokens):
        assert skip_special_tokens
        return " ".join(map(str, tokens))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return attach_exits(tiny.model_of("llama"), (1, 2, 3), "direct").eval()


def prompts(count, *, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(5, 60, (2 + n % 3,), generator=draw).tolist() for n in range(count)]


def written(model, prompt, length=4):
    ids = torch.tensor([prompt])
    made = model.generate(ids, max_new_tokens=length, do_sample=False, pad_token_id=0)
    return " ".join(map(str, made[0, len(prompt) :].tolist()))


def asked(model, count, *, seed=0):
    """Prompts whose reference is what the whole model writes, so that every change is a loss."""
    return [Asked(tuple(each), (written(model, each),)) for each in prompts(count, seed=seed)]


def found(model, texts, held_out=(), **options):
    advance = options.pop("advance", lambda texts: None)
    given = {"metric": "rouge1", "rule": "top_probability", "bound": 0.2, "batch_size": 40}
    ladder = Ladder(exits=(1, 2, 3), depth=model.depth)
    risk = TextRisk(ladder=ladder, max_new_tokens=4, **(given | options))
    return promise_of_texts(model, Words(), texts, held_out, risk, advance=advance)


def knowing(model):
    """Blocks above the first do nothing, so all exits say what the last layer says."""
    for block in model.model.layers[1:]:
        torch.nn.init.zeros_(block.self_attn.o_proj.weight)
        torch.nn.init.zeros_(block.mlp.down_proj.weight)
    return model


def test_exits_that_know_the_answer_lose_nothing_and_go_all_the_way(model):
    texts = asked(knowing(model), 30)

    one = found(model, texts, asked(model, 3, seed=1), rule="entropy")

    assert one.found.threshold == THRESHOLDS[-1]
    assert (one.found.risk, one.found.metric, one.found.num_texts) == (0.0, "rouge1", 30)
    assert one.held_out.risk == 0.0
    assert one.held_out.most_saved is None


def test_no_threshold_is_tried_after_one_that_failed(model):
    texts, tried = asked(model, 30), []
    sure = {"rule": "top_probability", "bound": 0.3}

    one = found(model, texts, advance=tried.append, **sure)

    passed = 0 if one.found.threshold is None else THRESHOLDS.index(one.found.threshold) + 1
    assert passed < len(THRESHOLDS)
    assert sum(tried) == 30 * (1 + passed + 1)
    assert one.found.risk is None or one.found.risk < 0.3


def test_the_loss_is_what_writing_alone_shows(model):
    texts = asked(model, 6)
    low = THRESHOLDS[-1]

    whole = found(model, texts, texts, bound=0.99, confidence=0.5, batch_size=4)
    alone = found(model, texts, texts, bound=0.99, confidence=0.5, batch_size=2)

    assert whole.found.threshold == low
    assert whole.as_dict() == alone.as_dict()
    assert whole.held_out.risk == pytest.approx(whole.found.risk)
    assert 0 < whole.found.risk < 1


def test_texts_kept_back_decide_nothing(model):
    texts = asked(model, 30)

    one = found(model, texts, asked(model, 5, seed=1))
    other = found(model, texts)

    assert one.found == other.found
    assert other.held_out is None


def test_rows_of_one_prompt_are_one_text_with_all_its_references():
    rows = [
        {"input_ids": [1, 2, 3], "labels": [-100, -100, 3]},
        {"input_ids": [1, 2, 4, 5], "labels": [-100, -100, 4, 5]},
        {"input_ids": [2, 2, 3], "labels": [-100, -100, 3]},
    ]

    texts = asked_of(rows, Words(), apart=False)

    assert texts == [Asked((1, 2), ("3", "4 5")), Asked((2, 2), ("3",))]


def test_what_cannot_be_promised_is_refused(model):
    texts = asked(model, 2)

    with pytest.raises(ConfigError, match="no metric 'taste'; use one of rouge1"):
        found(model, texts, metric="taste")
    with pytest.raises(ConfigError, match="bound must be more than 0"):
        found(model, texts, bound=0.0)
    with pytest.raises(InputError, match="there is no text"):
        found(model, [])
    with pytest.raises(InputError, match="row 1 has no prompt or no completion"):
        asked_of([{"input_ids": [1, 2], "labels": [1, 2]}], Words(), apart=False)


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_is_a_share_of_single_texts(model, metric):
    texts = asked(knowing(model), 3)
    wrong = [Asked(each.tokens, ("nothing of this kind",)) for each in texts]
    right = found(model, texts, texts, metric=metric, bound=0.5, confidence=0.01)
    none = found(model, wrong, wrong, metric=metric, bound=0.5, confidence=0.01)

    for each in (right, none):  # nothing is lost where exits know what the model says
        assert (each.found.risk, each.held_out.risk) == (0.0, 0.0)


def test_a_text_that_turns_from_right_to_wrong_loses_all_of_its_points(model):
    texts = asked(model, 12)

    one = found(model, texts, texts, metric="exact_match", bound=0.999, confidence=0.01)

    assert (one.found.risk * 12) == pytest.approx(round(one.found.risk * 12))
    assert one.found.risk > 0
