"""Sessions of ONNX Runtime for the blocks and the head of a model, made when first asked for.

In:  an ``Anatomy``. Out: for a span of blocks the sessions that make it up, end to end.
Law: sessions are those of the model's present weights; a weight changed in place, or another number
     of threads, makes new ones (tests/blocks/test_onnx.py).
Not here: what is in a session (offramp.blocks.engines.onnx_graph).

Sessions hold the weights once more, in the order that the products want, so no block is in two of
them: where a span begins or ends within a session, that session is given up and its blocks are made
anew in two, and in one again once no span has ended there for a while, since each session more
makes a step longer. Only where several texts have been run together are there sessions of half a
block beside them. They live as long as the model does, and are shared by all engines of it.
"""

import weakref
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn

from offramp.blocks.anatomy import Anatomy
from offramp.blocks.engines.onnx_graph import OUT, blocks_graph, halves_graphs, head_graph

OPTIONS = {"session.intra_op.allow_spinning": "0", "session.use_env_allocators": "1"}
"""Threads sleep while they wait: on cores that others use too, busy waiting doubled a step's time.
All sessions share an arena: with one each, whose size is that of its longest prompt, early exit on
four prompts of 200 tokens held 296 MB more, now 20 (docs/lab-log.md, 2026-11-22)."""


HALVES_THREADS = 8
"""Most threads of a session of half a block: each session has its own, and there are 60 of them for
30 blocks. A few tokens' products wait for memory, which more threads would not bring sooner."""

UNUSED = 256
"""Spans that may go through a cut since one ended there, before the cut is given up. To make
sessions anew takes as long as many steps, so ways that take turns, text by text, keep theirs."""

HEAD_BITS = {None: None, 8: 8, 4: None}
"""Bits of the head by those of the blocks: a head of 4 bits errs most, one of 8 rounds states."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Segment:
    """Some blocks, start to stop - 1, that run in one call."""

    start: int
    stop: int
    session: Any


@dataclass(kw_only=True)
class Sessions:
    """All sessions of one model with one kind of weights.

    Attributes:
        bits: Of a weight: 8 or 4; None is float32.
        stamp: Tells the weights and the number of threads that they were made for.
    """

    bits: int | None
    stamp: object
    _cuts: dict[int, int] = field(default_factory=dict)
    """Exits at which spans end, and how many have gone through each since."""
    _built: dict[tuple[int, int], Segment] = field(default_factory=dict)
    _halves: dict[int, tuple[Any, Any]] = field(default_factory=dict)
    _head: Any = None

    def between(self, anatomy: Anatomy, start: int, stop: int) -> list[Segment]:
        """Give the segments from exit ``start`` to exit ``stop``, in order."""
        before = self._cuts
        through = {cut: 1 + count for cut, count in before.items() if start < cut < stop}
        unused = {cut for cut, count in through.items() if count > UNUSED}
        after = {**before, **through, start: 0, stop: 0}
        self._cuts = {cut: count for cut, count in after.items() if cut not in unused}
        if self._cuts.keys() != before.keys():
            self._drop(unused)
        marks = sorted(cut for cut in self._cuts if start <= cut <= stop)
        return [self._segment(anatomy, *ends) for ends in pairwise(marks)]

    def _drop(self, unused: Set[int]) -> None:
        """Give up sessions that a cut divides, or that a cut which is gone ended."""
        self._built = {
            ends: segment
            for ends, segment in self._built.items()
            if not any(ends[0] < cut < ends[1] for cut in self._cuts) and not unused & set(ends)
        }

    def halves(self, anatomy: Anatomy, index: int) -> tuple[Any, Any]:
        """Give the sessions of a block before and after its attention."""
        if index not in self._halves:
            graphs = halves_graphs(anatomy.blocks[index], bits=self.bits)
            first, last = (_session(*graph, threads=HALVES_THREADS) for graph in graphs)
            self._halves[index] = first, last
        return self._halves[index]

    def head(self, anatomy: Anatomy) -> Any:
        """Give the session of the vocabulary head."""
        if self._head is None:
            head: Any = anatomy.head
            self._head = _session(*head_graph(head, bits=HEAD_BITS[self.bits]))
        return self._head

    def _segment(self, anatomy: Anatomy, start: int, stop: int) -> Segment:
        found = self._built.get((start, stop))
        if found is None:
            file, weights = blocks_graph(list(anatomy.blocks[start:stop]), start, bits=self.bits)
            found = Segment(start=start, stop=stop, session=_session(file, weights))
            self._built[start, stop] = found
        return found


_SESSIONS: weakref.WeakKeyDictionary[nn.Module, dict[int | None, Sessions]] = (
    weakref.WeakKeyDictionary()
)


def sessions_of(anatomy: Anatomy, *, bits: int | None) -> Sessions:
    """Give the sessions of a model, those made before if its weights are still the same."""
    kinds = _SESSIONS.setdefault(anatomy.stack, {})
    stamp = _stamp(anatomy)
    found = kinds.get(bits)
    if found is None or found.stamp != stamp:
        found = kinds[bits] = Sessions(bits=bits, stamp=stamp)
    return found


def called(session: Any, given: Mapping[str, Tensor], out: Tensor) -> Tensor:
    """Run a session that writes ``out``.

    Args:
        session: To run.
        given: Its inputs by name, contiguous.
        out: Is filled.
    """
    call = session.io_binding()
    for name, tensor in given.items():
        call.bind_ortvalue_input(name, as_value(tensor))
    call.bind_ortvalue_output(OUT, as_value(out))
    session.run_with_iobinding(call)
    return out


def as_value(tensor: Tensor) -> Any:
    """Lend a tensor's memory to ONNX Runtime; keep the tensor while the value is in use."""
    return onnxruntime.OrtValue.ortvalue_from_numpy(tensor.detach().numpy())


def _stamp(anatomy: Anatomy) -> tuple[object, ...]:
    weights = (*anatomy.blocks.parameters(), *anatomy.head.parameters())
    marks = [(each.data_ptr(), 0 if each.is_inference() else each._version) for each in weights]
    return torch.get_num_threads(), *marks


@cache
def _share_arena() -> None:
    """Make the arena that sessions share, once in a process."""
    place = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(place, None)


def _session(file: bytes, weights: dict[str, Tensor], *, threads: int | None = None) -> Any:
    """Make a session; it copies the weights.

    Args:
        file: The graph.
        weights: Beside it.
        threads: Not more than so many; None is as many as PyTorch has.
    """
    _share_arena()
    options = onnxruntime.SessionOptions()
    count = torch.get_num_threads()
    options.intra_op_num_threads = count if threads is None else min(count, threads)
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for name, value in OPTIONS.items():
        options.add_session_config_entry(name, value)
    outside = {name: value for name, value in weights.items() if value.dtype != torch.int64}
    options.add_external_initializers(list(outside), list(map(as_value, outside.values())))
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
