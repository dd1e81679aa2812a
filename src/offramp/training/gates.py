"""Train gates: is this exit's answer the last layer's?

In:  a model with trained exits, and batches of text. Out: a gate for each exit, in place.
Law: a gate's confidence is calibrated on text it was not fitted on, and its threshold is the lowest
     that keeps the asked precision there (tests/training/test_gates.py).
Not here: the gate itself (offramp.blocks.gates), gates of ELMER models
     (offramp.training.canvas_gates).
Source: Schuster et al. 2022, "CALM", arXiv:2207.07061, section 3.4, with the label "agrees with the
     last layer" and both labels counted equally. Differs from the paper: gates are fitted by
     Newton-like steps to the end (a linear probe is convex) instead of by minibatches, and are
     calibrated afterwards by Platt's two numbers (Platt 1999). Calibration and threshold use the
     same positions: of held-out text, or the last fifth, which the fit does not see but which the
     exits may have been trained on.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everyone uses
from jaxtyping import Bool, Float
from torch import Tensor

from offramp.blocks.gates import NEVER, Gate
from offramp.blocks.projections import add_gate_
from offramp.errors import ConfigError, InputError
from offramp.models.view import View
from offramp.training.chunked import CHUNK_SCORES, vocabulary_of
from offramp.training.objectives import Objective
from offramp.training.student import Lesson, Student

HELD_OUT = 0.2
"""Share of the positions kept back for calibration."""
FEWEST = 10
"""Positions that a gate takes."""


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """How a gate does on the positions kept back.

    Attributes:
        exit: Which.
        agreement: Share of positions where the exit says what the last layer says.
        threshold: Leave at this confidence or above.
        precision: Of the positions where the gate says so, how many agree.
        recall: Of the positions that agree, at how many the gate says so.
        positions: How many were kept back.
    """

    exit: int
    agreement: float
    threshold: float
    precision: float
    recall: float
    positions: int


@dataclass(frozen=True, kw_only=True)
class Examples:
    """What a gate learns from, or is measured on.

    Attributes:
        states: The exit's states.
        agrees: Where its answer is the last layer's.
    """

    states: Float[Tensor, "rows width"]
    agrees: Bool[Tensor, " rows"]


def train_gates(
    model: Any,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    exits: Sequence[int],
    precision: float = 0.95,
    share: float = 0.25,
    held_out: Iterable[Mapping[str, Tensor]] | None = None,
    advance: Callable[[int], None] = lambda positions: None,
) -> list[GateReport]:
    """Give each exit a gate that was fitted, calibrated and given a threshold.

    Args:
        model: A model with exits, changed in place.
        batches: ``input_ids``, ``shift_labels`` and what else the model takes.
        exits: Which get a gate.
        precision: The threshold is the lowest that keeps it; above 0, at most 1.
        share: Of the positions used, above 0, at most 1.
        held_out: Batches that the exits were not trained on, for calibration and threshold; None
            keeps the last fifth of the positions back for them.
        advance: Called with the number of positions of each batch.

    Raises:
        ConfigError: The precision is out of its range, or no exit is named.
        InputError: There is too little text, or too little of it is held out.
    """
    check_precision(precision)
    numbers = model.check_exits(tuple(exits), attached_only=True)
    if not numbers:
        raise ConfigError("no exit to give a gate; name exits that are attached")
    lesson = Lesson(
        objective=Objective(), exit_weights=dict.fromkeys(numbers, 1.0), share=share, seed=1
    )
    model.calibration = None  # it was found for other gates
    student = Student(model, lesson).eval()
    learned = _examples(student, batches, advance)
    if learned is None:
        raise InputError("too little text to train gates on; give at least ten positions")
    kept = None if held_out is None else _examples(student, held_out, advance)
    if held_out is not None and kept is None:
        raise InputError(
            "too little held-out text to calibrate gates on; give at least ten positions"
        )
    return [
        _train(
            add_gate_(model.exits[str(exit)], model.anatomy, exit),
            learned[exit],
            held_out=None if kept is None else kept[exit],
            exit=exit,
            precision=precision,
        )
        for exit in numbers
    ]


def _examples(
    student: Student, batches: Iterable[Mapping[str, Tensor]], advance: Callable[[int], None]
) -> dict[int, Examples] | None:
    """Look at batches; give what each exit's gate learns from, None if that is too little."""
    numbers = student.lesson.numbers
    seen: dict[int, list[tuple[Tensor, Tensor]]] = {exit: [] for exit in numbers}
    for batch in batches:
        with torch.no_grad():
            view, chosen = student.see(batch)
            for exit, agrees in agreements(view, numbers).items():
                state = view.keep(view.seen.states[exit])
                seen[exit].append((state.cpu(), agrees.cpu()))
        advance(int(chosen.sum()))
    if sum(len(agrees) for _, agrees in seen[numbers[0]]) < FEWEST:
        return None
    parts = {exit: zip(*some, strict=True) for exit, some in seen.items()}
    joined = {exit: [torch.cat(each) for each in some] for exit, some in parts.items()}
    return {exit: Examples(states=states, agrees=said) for exit, (states, said) in joined.items()}


def check_precision(precision: float) -> None:
    """Refuse what is no precision.

    Raises:
        ConfigError: It is not above 0 and at most 1.
    """
    if not 0 < precision <= 1:
        raise ConfigError(f"precision must be above 0 and at most 1, got {precision}; try 0.95")


def agreements(view: View, exits: Sequence[int]) -> dict[int, Bool[Tensor, " rows"]]:
    """Tell where each exit's best token is the last layer's, some positions at a time."""
    anatomy, last = view.anatomy, view.seen.finished()
    prepared = {exit: view.prepared(exit) for exit in exits}
    size = max(16, CHUNK_SCORES // vocabulary_of(anatomy.head))
    found: dict[int, list[Tensor]] = {exit: [] for exit in exits}
    for start in range(0, len(last), size):
        rows = slice(start, start + size)
        final = View.complete(anatomy, anatomy.head(last[rows])).argmax(-1)
        for exit, (head, read) in prepared.items():
            own = View.complete(anatomy, head(read[rows])).argmax(-1)
            found[exit].append(own == final)
    return {exit: torch.cat(each) for exit, each in found.items()}


def _train(
    gate: Gate,
    examples: Examples,
    *,
    exit: int,
    precision: float,
    held_out: Examples | None = None,
) -> GateReport:
    if held_out is None:
        states, agrees = examples.states, examples.agrees
        kept = max(2, int(len(agrees) * HELD_OUT))
        examples = Examples(states=states[:-kept], agrees=agrees[:-kept])
        held_out = Examples(states=states[-kept:], agrees=agrees[-kept:])
    return settle_(gate, examples, held_out=held_out, exit=exit, precision=precision)


def settle_(
    gate: Gate, examples: Examples, *, held_out: Examples, exit: int, precision: float
) -> GateReport:
    """Fit a gate, calibrate it, and give it the lowest threshold that keeps a precision.

    Args:
        gate: Changed in place, whatever device and dtype it is kept in.
        examples: What it is fitted on, at least one.
        held_out: What calibration, threshold and report are made of, at least one.
        exit: Which exit it belongs to.
        precision: Above 0, at most 1.
    """
    probe = Gate(examples.states.shape[-1])
    _fit_(probe, examples.states.float(), examples.agrees)
    states, truth = held_out.states.float(), held_out.agrees
    with torch.no_grad():
        slope, offset = _platt(probe.logit(states), truth)
        gate.linear.weight.copy_(probe.linear.weight * slope)
        gate.linear.bias.copy_(probe.linear.bias * slope + offset)
        confidence = gate.confidence(states.to(gate.linear.weight.device))
        steps = rounded_down(confidence.cpu(), gate.threshold.dtype)
        gate.threshold.fill_(lowest_threshold(steps, truth, precision=precision))
        stops = gate.leaves(confidence).cpu()
    right = float((stops & truth).sum())
    return GateReport(
        exit=exit,
        agreement=float(truth.float().mean()),
        threshold=float(gate.threshold),
        precision=right / max(float(stops.sum()), 1.0),
        recall=right / max(float(truth.sum()), 1.0),
        positions=len(truth),
    )


def rounded_down(confidence: Float[Tensor, " rows"], dtype: torch.dtype) -> Float[Tensor, " rows"]:
    """Round to numbers that a dtype can hold, so that it holds the threshold that is found.

    ``confidence >= t`` and ``rounded_down(confidence) >= t`` are the same for every such t.
    Rounding the threshold afterwards would not do: precision may fall where the threshold rises.
    """
    rounded = confidence.to(dtype)
    if dtype.itemsize == 2:
        too_high = (rounded.float() > confidence).to(torch.int16)
        rounded = (rounded.view(torch.int16) - too_high).view(dtype)
    return rounded.float()


def _fit_(probe: Gate, states: Tensor, agrees: Tensor) -> None:
    """Fit a linear probe to the end, both labels counted equally, with a slight ridge."""
    truth = agrees.float()
    share = truth.mean().clamp(0.01, 0.99)
    weights = torch.where(agrees, 0.5 / share, 0.5 / (1 - share))
    parameters = list(probe.linear.parameters())
    scaled = probe.scaled(states)  # once, not at each of a hundred steps
    search = torch.optim.LBFGS(parameters, max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        with torch.enable_grad():
            value = F.binary_cross_entropy_with_logits(
                probe.logit_of_scaled(scaled), truth, weights
            )
            value = value + 1e-4 * probe.linear.weight.square().sum()
            value.backward()  # type: ignore[no-untyped-call]
        return value

    search.step(loss)  # type: ignore[no-untyped-call]


def _platt(logits: Tensor, truth: Tensor) -> tuple[float, float]:
    """Give slope and offset that make logits the log-odds of what is true."""
    numbers = torch.tensor([1.0, 0.0], requires_grad=True)
    search = torch.optim.LBFGS([numbers], max_iter=50, line_search_fn="strong_wolfe")
    yes = int(truth.sum())
    no = len(truth) - yes
    goal = torch.where(truth, (yes + 1) / (yes + 2), 1 / (no + 2))  # Platt's soft labels

    def loss() -> Tensor:
        search.zero_grad()
        with torch.enable_grad():
            value = F.binary_cross_entropy_with_logits(logits * numbers[0] + numbers[1], goal)
            value.backward()  # type: ignore[no-untyped-call]
        return value

    search.step(loss)  # type: ignore[no-untyped-call]
    slope, offset = numbers.tolist()
    return (slope, offset) if slope > 0 else (0.0, float(goal.mean().logit()))


def lowest_threshold(
    confidence: Float[Tensor, " rows"], truth: Bool[Tensor, " rows"], *, precision: float
) -> float:
    """Give the lowest threshold at which enough of what lies at or above it is true.

    Args:
        confidence: 0 to 1.
        truth: What each should have been.
        precision: Enough, above 0, at most 1.

    Returns:
        A threshold; ``NEVER`` if no threshold is precise enough.

    Example:
        >>> lowest_threshold(torch.tensor([0.2, 0.6, 0.9]), torch.tensor([False, True, True]),
        ...     precision=1.0)
        0.6000000238418579
    """
    ordered, places = confidence.sort(descending=True)
    right = truth[places].float().cumsum(0) / torch.arange(1, len(truth) + 1)
    last_of_ties = torch.ones_like(truth)
    last_of_ties[:-1] = ordered[1:] < ordered[:-1]
    good = ((right >= precision) & last_of_ties).nonzero()
    return float(ordered[good[-1, 0]]) if len(good) else NEVER
