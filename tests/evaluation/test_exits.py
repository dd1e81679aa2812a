"""One pass in chunks gives the numbers of the whole tables of scores."""

import math
from dataclasses import asdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny
from offramp import Contrast, DoLa, FixedExit, attach_exits
from offramp.blocks.gates import NEVER, Gate
from offramp.errors import ConfigError, ExitNotFoundError, InputError
from offramp.evaluation.exits import measure_exits
from offramp.evaluation.tally import BINS

LENGTHS = (9, 1, 14, 5, 11, 2)
L = tiny.DEPTH


def texts(lengths=LENGTHS, *, masked: int = 2, seed: int = 3):
    """Rows of random tokens; the first labels are not counted."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for length in lengths:
        ids = torch.randint(3, tiny.VOCAB, (length,), generator=generator)
        labels = ids.clone()
        labels[:masked] = -100
        rows.append((ids, labels))
    return rows


def padded(rows, size=3, *, extra: int = 0):
    """Batches of rows, padded on the right."""
    for first in range(0, len(rows), size):
        part = rows[first : first + size]
        width = max(len(ids) for ids, _ in part) + extra
        batch = {
            "input_ids": torch.zeros(len(part), width, dtype=torch.long),
            "attention_mask": torch.zeros(len(part), width, dtype=torch.long),
            "labels": torch.full((len(part), width), -100),
        }
        for row, (ids, labels) in enumerate(part):
            batch["input_ids"][row, : len(ids)] = ids
            batch["attention_mask"][row, : len(ids)] = 1
            batch["labels"][row, : len(ids)] = labels
        yield batch


@pytest.fixture(scope="module")
def model():
    """A Llama in float64 with exits of four kinds whose answers differ."""
    model = tiny.model_of("llama").double()
    for exit, kind in ((1, "lens"), (2, "head"), (3, "block"), (L, "direct")):
        attach_exits(model, (exit,), kind)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(5)
        for parameter in model.exits["1"].linear.parameters():
            parameter.normal_(0, 0.05, generator=generator)
    return model


def numbers(report):
    """All numbers of a report, flat."""
    flat = {}

    def walk(value, path):
        if isinstance(value, dict):
            for name, each in value.items():
                walk(each, f"{path}.{name}")
        elif isinstance(value, (list, tuple)):
            for place, each in enumerate(value):
                walk(each, f"{path}.{place}")
        else:
            flat[path] = value

    walk(asdict(report), "")
    return flat


def assert_same(one, other):
    first, second = numbers(one), numbers(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        if isinstance(value, float):
            assert second[name] == pytest.approx(value, rel=1e-10, abs=1e-10), name
        else:
            assert second[name] == value, name


@pytest.fixture(scope="module")
def whole(model):
    """Scores of all counted positions, [N, V] for each exit, and what they should predict."""
    scores, targets, owners = {exit: [] for exit in (1, 2, 3, L, "original")}, [], []
    for row, (ids, labels) in enumerate(texts()):
        counted = (labels[1:] != -100).nonzero()[:, 0]
        found = model.exit_logits(ids[None], exits=(1, 2, 3, L, "original"))
        for exit, each in found.items():
            scores[exit].append(each[0, counted].detach())
        targets.append(labels[1:][counted])
        owners += [row] * len(counted)
    return {exit: torch.cat(each) for exit, each in scores.items()}, torch.cat(targets), owners


@pytest.fixture(scope="module")
def report(model):
    return measure_exits(model, padded(texts()))


@pytest.mark.parametrize("exit", [1, 2, 3, L, "original"])
def test_numbers_are_those_of_the_whole_tables(report, whole, exit):
    tables, targets, _ = whole
    log_p, log_last = tables[exit].log_softmax(-1), tables["original"].log_softmax(-1)
    found = next(each for each in report.exits if each.exit == exit)

    loss = torch.nn.functional.cross_entropy(tables[exit], targets).item()
    near = {"abs": 1e-10}
    assert report.tokens == len(targets)
    assert found.cross_entropy == pytest.approx(loss, **near)
    assert found.perplexity == pytest.approx(math.exp(loss), rel=1e-10)
    assert found.accuracy == pytest.approx((log_p.argmax(-1) == targets).double().mean().item())
    same = (log_p.argmax(-1) == log_last.argmax(-1)).double()
    assert found.agreement == pytest.approx(same.mean().item(), **near)
    top = log_p.topk(5).indices == log_last.argmax(-1, keepdim=True)
    assert found.agreement_top5 == pytest.approx(top.any(-1).double().mean().item(), **near)
    divergence = (log_last.exp() * (log_last - log_p)).sum(-1).mean().item()
    assert found.divergence == pytest.approx(divergence, **near)
    confidence, right = log_p.exp().max(-1).values, (log_p.argmax(-1) == targets).double()
    bins = (confidence * BINS).ceil()
    error = sum(
        (bins == each).double().mean()
        * (confidence[bins == each].mean() - right[bins == each].mean()).abs()
        for each in bins.unique()
    )
    assert found.calibration_error == pytest.approx(float(error), **near)


def test_oracle_depth_is_counted_position_by_position(report, whole):
    tables, targets, _ = whole
    order = [1, 2, 3, L, "original"]
    final = tables["original"].argmax(-1)
    first = []
    for position in range(len(targets)):
        depth = L
        for exit in reversed(order):
            if tables[exit][position].argmax() != final[position]:
                break
            depth = L if exit == "original" else exit
        first.append(depth)

    shares = [each.oracle_share for each in report.exits]

    assert shares[:3] == pytest.approx([first.count(exit) / len(first) for exit in (1, 2, 3)])
    assert sum(shares) == pytest.approx(1)
    assert report.exits[-1].oracle_cumulative == pytest.approx(1)
    assert report.mean_oracle_depth == pytest.approx(sum(first) / len(first))
    assert [each.oracle_cumulative for each in report.exits] == sorted(
        each.oracle_cumulative for each in report.exits
    )


def test_the_interval_of_agreement_is_that_of_rows(report, whole):
    tables, _, owners = whole
    agrees = (tables[1].argmax(-1) == tables["original"].argmax(-1)).double()
    owners = torch.tensor(owners)
    share, rows = agrees.mean(), owners.unique()
    residuals = sum((agrees[owners == row] - share).sum() ** 2 for row in rows)
    count = len(rows)

    expected = 1.959964 * math.sqrt(count / (count - 1) * residuals) / len(agrees)

    assert report.rows == count
    assert report.exits[0].agreement_margin == pytest.approx(expected, rel=1e-6)


def test_the_last_exit_agrees_with_itself(report):
    last, original = report.exits[-2:]

    assert (last.exit, last.projection) == (L, "direct")
    assert (original.exit, original.projection) == ("original", None)
    for each in (last, original):
        assert (each.agreement, each.agreement_top5) == (1, 1)
        assert each.divergence == 0
        assert each.agreement_margin == pytest.approx(0, abs=1e-9)
    assert last.cross_entropy == pytest.approx(original.cross_entropy, abs=1e-12)


@given(size=st.integers(1, 7), chunk=st.integers(1, 40), extra=st.integers(0, 5))
def test_batches_chunks_and_padding_change_nothing(model, report, size, chunk, extra):
    found = measure_exits(model, padded(texts(), size, extra=extra), chunk=chunk)

    assert_same(found, report)


@pytest.mark.parametrize("family", ["gpt2", "opt", "gpt_neox", "granite", "gemma2", "gemma3_text"])
def test_every_family_is_measured_as_its_own_logits_say(family):
    model = attach_exits(tiny.model_of(family).double(), (2, L))
    rows = texts((9, 6))

    found = measure_exits(model, padded(rows)).exits[-1]

    losses = [
        torch.nn.functional.cross_entropy(
            model(ids[None]).logits[0, :-1], labels[1:], reduction="none"
        )
        for ids, labels in rows
    ]
    kept = torch.cat(
        [loss[labels[1:] != -100] for loss, (_, labels) in zip(losses, rows, strict=True)]
    )
    assert found.cross_entropy == pytest.approx(kept.mean().item(), abs=1e-6)  # norms in float32


RULES = {
    "contrast": Contrast(lower=1),
    "dense": Contrast(upper=3, lower=2, alpha=0.01, sparse=False),
    "exit": FixedExit(exit=2),
    "raw": DoLa(layers=(1, 3), relative_top=1e-9, states="raw"),
}


@pytest.mark.parametrize("name", RULES)
def test_a_rules_perplexity_is_that_of_its_scores(model, name):
    rows = texts()

    found = measure_exits(model, padded(rows), rules=RULES, chunk=7).rules

    losses = []
    for ids, labels in rows:
        log_p = model(ids[None], decoding=RULES[name]).logits[0, :-1].log_softmax(-1)
        counted = labels[1:] != -100
        losses.append(-log_p.gather(-1, ids[1:, None])[counted, 0])
    expected = torch.cat(losses).double().mean()
    precision = 1e-9 if losses[0].dtype == torch.float64 else 1e-6  # DoLa scores in float32
    each = found[list(RULES).index(name)]
    assert each.decoding == name
    assert each.perplexity == pytest.approx(expected.exp().item(), rel=precision)
    assert each.cross_entropy == each.cross_entropy_possible
    assert each.impossible == 0
    assert each.cross_entropy_margin > 0


def test_a_fixed_exit_as_rule_is_the_exit_itself(model, report):
    (rule,) = measure_exits(model, padded(texts()), rules={"exit 2": FixedExit(exit=2)}).rules

    assert rule.cross_entropy == pytest.approx(report.exits[1].cross_entropy, abs=1e-10)
    assert rule.cross_entropy_margin == pytest.approx(report.exits[1].cross_entropy_margin)


def test_tokens_that_dola_calls_impossible_are_counted_apart(model):
    rule, rows = DoLa(layers=(1, 3), relative_top=0.3), texts()

    (found,) = measure_exits(model, padded(rows), rules={"dola": rule}).rules

    losses = []
    for ids, labels in rows:
        log_p = model(ids[None], decoding=rule).logits[0, :-1].log_softmax(-1)
        losses.append(-log_p.gather(-1, ids[1:, None])[labels[1:] != -100, 0])
    losses = torch.cat(losses)
    assert 0 < found.impossible < 1
    assert found.impossible == pytest.approx(losses.isinf().double().mean().item())
    assert found.cross_entropy == found.perplexity == math.inf
    possible = losses[losses.isfinite()].mean().item()
    assert found.cross_entropy_possible == pytest.approx(possible, abs=1e-9)


def test_json_holds_no_number_that_json_cannot_write(model):
    rule = DoLa(layers=(1, 3), relative_top=0.3)

    found = measure_exits(model, padded(texts()[:1]), rules={"dola": rule}).as_json()

    assert found["rules"][0]["perplexity"] is None
    assert found["exits"][0]["agreement_margin"] is None


def gate_of(threshold):
    """A gate that says stop where the first feature of the state is large."""
    gate = Gate(32)
    with torch.no_grad():
        gate.linear.weight[0, 0] = 1
        gate.threshold.fill_(threshold)
    return gate


def test_a_gate_is_judged_at_its_threshold(whole):
    model = attach_exits(tiny.model_of("llama").double(), (1, 2))
    gate = model.exits["1"].gate = gate_of(0.6)
    stops, agrees = [], []
    for ids, labels in texts():
        counted = labels[1:] != -100
        states = model(ids[None], output_hidden_states=True).hidden_states[1][0, :-1]
        stops.append((gate.confidence(states) >= 0.6)[counted])
        said = model.exit_logits(ids[None], exits=(1, "original"))
        agrees.append((said[1].argmax(-1) == said["original"].argmax(-1))[0, :-1][counted])
    stops, agrees = torch.cat(stops), torch.cat(agrees)

    found = measure_exits(model, padded(texts()))

    assert found.exits[0].gate.threshold == pytest.approx(0.6)
    assert 0 < int((stops & agrees).sum()) < int(stops.sum())
    assert found.exits[0].gate.precision == pytest.approx((agrees[stops]).double().mean().item())
    assert found.exits[0].gate.recall == pytest.approx(stops[agrees].double().mean().item())
    assert found.exits[0].gate.stops == pytest.approx(stops.double().mean().item())
    assert [each.gate for each in found.exits[1:]] == [None, None]


def test_a_gate_that_never_says_stop_has_no_precision():
    model = attach_exits(tiny.model_of("llama"), (1,))
    model.exits["1"].gate = gate_of(NEVER)

    found = measure_exits(model, padded(texts())).exits[0].gate

    assert (found.precision, found.recall, found.stops) == (None, 0, 0)


def test_a_model_without_exits_is_measured_at_every_block():
    model = attach_exits(tiny.model_of("llama"), (1,))
    del model.exits["1"]

    found = measure_exits(model, padded(texts()))

    assert [each.exit for each in found.exits] == [1, 2, 3, "original"]
    assert {each.projection for each in found.exits[:-1]} == {"direct"}


def test_only_the_exits_asked_for_are_measured(model, report):
    found = measure_exits(model, padded(texts()), exits=(2, 0))

    assert [each.exit for each in found.exits] == [0, 2, "original"]
    assert found.exits[1].cross_entropy == pytest.approx(report.exits[1].cross_entropy)


def test_the_model_comes_back_as_it_was_and_no_head_sees_more_than_a_chunk(model):
    rows, heads = [], []
    handle = model.get_output_embeddings().register_forward_hook(
        lambda _, args, __: rows.append(args[0].shape[:-1].numel())
    )
    model.train()

    measure_exits(model, padded(texts(), 6), chunk=5, advance=heads.append)
    handle.remove()

    assert model.training
    assert max(rows) == 5
    assert heads == [6]
    model.eval()


def test_a_text_with_nothing_to_predict_is_refused(model):
    with pytest.raises(InputError, match=r"no token to predict.*longer texts"):
        measure_exits(model, padded(texts((1, 2))))


def test_an_exit_that_does_not_exist_is_refused(model):
    with pytest.raises(ExitNotFoundError, match=r"exit 9 does not exist.*4 blocks"):
        measure_exits(model, padded(texts()), exits=(9,))
    with pytest.raises(ExitNotFoundError, match="exit 9"):
        measure_exits(model, padded(texts()), rules={"far": FixedExit(exit=9)})


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_of_an_encoder_decoder_the_decoder_is_measured(family):
    model = tiny.model_of(family).double()
    attach_exits(model, (1,), "lens")
    attach_exits(model, (2,), "block")
    batch = next(padded(texts(), len(LENGTHS)))
    batch["labels"] = batch["labels"].flip(-1)  # of its own, not those of the prompt
    counted = batch["labels"] != -100
    start = model.generation_config.decoder_start_token_id
    read = torch.cat((torch.full((len(LENGTHS), 1), start), batch["labels"][:, :-1]), -1)
    read[read == -100] = start
    said = model.exit_logits(
        batch["input_ids"],
        attention_mask=batch["attention_mask"],
        decoder_input_ids=read,
        exits=(1, 2, "original"),
    )

    report = measure_exits(model, [batch])

    assert report.tokens == counted.sum()
    for each in report.exits:
        loss = torch.nn.functional.cross_entropy(said[each.exit][counted], batch["labels"][counted])
        assert each.cross_entropy == pytest.approx(loss.item(), abs=1e-10)


def test_scores_that_are_no_numbers_are_refused():
    model = attach_exits(tiny.model_of("llama"), (1,), "lens")
    with torch.no_grad():
        model.exits["1"].linear.bias.fill_(math.nan)

    with pytest.raises(ConfigError, match=r"exit 1 gives NaN.*float32"):
        measure_exits(model, padded(texts()))


def test_an_empty_chunk_is_refused(model):
    with pytest.raises(ConfigError, match="chunk must be 1 or more positions, got 0"):
        measure_exits(model, padded(texts()), chunk=0)
