"""The blocks of Llama and its like, run by ONNX Runtime.

In:  an ``Anatomy`` of a family that ``fits_onnx``. Out: an engine over a copy of the weights,
     float32 as they are or rounded to 8 or 4 bits.
Law: in float32 it gives what the family's own blocks give, up to the order of sums; with fewer
     bits, what a model of the rounded weights gives, nearly so with 8; every way of decoding runs
     on it. With 8 bits states are rounded too, so texts of drafts and of plain decoding may part
     (tests/blocks/test_engines.py, tests/blocks/test_onnx.py, tests/decoding/test_onnx.py).
Not here: the graph (offramp.blocks.engines.onnx_graph), its sessions (onnx_sessions).

What it saves beside ``PlainEngine`` is the time between the products: one call of a session runs
the blocks between two exits, with a cache that is read and written in place. Several texts are
multiplied together, and attend by PyTorch, each to itself: two calls a block.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from offramp.blocks.anatomy import Anatomy
from offramp.blocks.engines.attention import Attention, Heads
from offramp.blocks.engines.engine import Piece
from offramp.blocks.engines.onnx_graph import (
    COSINE,
    LAST,
    OUT,
    PLACES,
    SEEN,
    SINE,
    STATES,
    TOTAL,
    cache_names,
)
from offramp.blocks.engines.onnx_sessions import (
    HEAD_BITS,
    Segment,
    Sessions,
    as_value,
    called,
    sessions_of,
)
from offramp.blocks.engines.plain import fits
from offramp.blocks.engines.slots import SlotRow, one_length, remember
from offramp.blocks.products import copies_fit, matrices_of

BITS: dict[str, int | None] = {
    "onnxruntime": None,
    "onnxruntime-int8": 8,
    "onnxruntime-int4": 4,
}
"""Bits of a weight by the engine's name; None is float32."""

ROTARIES = frozenset({"default", "linear", "llama3", "yarn"})
"""Ways to turn queries and keys that depend on the position alone."""


FEW = 16
"""Tokens of each of several texts from which products take their time, together or not."""

HEAD_STEP = 16
"""The width of a head must be a multiple of this where ONNX Runtime turns it."""


class OnnxRow(SlotRow):
    """Keys and values of one text, and the calls that read and write them."""

    def __init__(self, depth: int) -> None:
        super().__init__(depth)
        self.last, self.total = (torch.zeros(1, dtype=torch.int32) for _ in range(2))
        self._calls: dict[Segment, tuple[list[Any], Any]] = {}

    def call(self, segment: Segment, tables: tuple[Tensor, Tensor]) -> Any:
        """Give the call of a segment with this row's memory, made anew where that has moved."""
        memory: list[Any] = [*self.kept[segment.start : segment.stop], *tables]
        made = self._calls.get(segment)
        if made is None or any(old is not new for old, new in zip(made[0], memory, strict=True)):
            made = self._calls[segment] = memory, self._bound(segment, tables)
        return made[1]

    def _bound(self, segment: Segment, tables: tuple[Tensor, Tensor]) -> Any:
        call = segment.session.io_binding()
        given = ((COSINE, tables[0]), (SINE, tables[1]), (LAST, self.last), (TOTAL, self.total))
        for name, tensor in given:
            call.bind_ortvalue_input(name, as_value(tensor))
        for index in range(segment.start, segment.stop):
            kept = self.kept[index]
            assert kept is not None
            for (before, after), part in zip(cache_names(index), kept.chunk(2), strict=True):
                value = as_value(part[None])
                call.bind_ortvalue_input(before, value)
                call.bind_ortvalue_output(after, value)
        return call


class OnnxHead(nn.Module):
    """A vocabulary head; single rows of it can be read if its weights are the model's own.

    Args:
        session: Scores the vocabulary.
        like: The model's head.
        exact: Whether the session has its weights as they are.
    """

    def __init__(self, session: Any, like: Any, *, exact: bool) -> None:
        super().__init__()
        self._session, self._vocab = session, like.out_features
        self._linear = (like,) if exact else ()

    @property
    def same_weights(self) -> nn.Module | None:
        """A plain layer of the same weights, or None."""
        return self._linear[0] if self._linear else None

    def forward(self, states: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows vocab"]:
        """Score the vocabulary."""
        lines = states.detach().reshape(1, -1, states.shape[-1]).contiguous()
        scores = lines.new_empty(1, lines.shape[1], self._vocab)
        called(self._session, {STATES: lines}, scores)
        return scores.view(*states.shape[:-1], self._vocab)


class OnnxEngine:
    """Runs blocks of a model of ``FAMILIES`` on the processor.

    Several texts with fewer than ``FEW`` tokens each are multiplied together, block by block, if
    the blocks' matrices, which are kept once more for it, have at most ``PACKED_BYTES``. With 8
    bits, more bytes or more tokens texts are run one after the other.

    Args:
        anatomy: The model's parts, for which ``fits_onnx`` says yes.
        name: One of ``BITS``.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from offramp.blocks.anatomy import anatomy_of
        >>> config = LlamaConfig(vocab_size=9, hidden_size=32, intermediate_size=8,
        ...     num_hidden_layers=3, num_attention_heads=2)
        >>> engine = OnnxEngine(anatomy_of(LlamaForCausalLM(config).eval()))
        >>> pieces = [(engine.row(), 2), (engine.row(), 1)]
        >>> engine.run(engine.embed(torch.tensor([1, 5, 3]), pieces), 0, 3, pieces).shape
        torch.Size([3, 32])
    """

    def __init__(self, anatomy: Anatomy, name: str = "onnxruntime") -> None:
        self.name = name
        self._sessions: Sessions = sessions_of(anatomy, bits=BITS[name])
        stack: Any = anatomy.stack
        attention: Any = anatomy.blocks[0].self_attn
        self._embeddings: nn.Module = stack.get_input_embeddings()
        self._rotary: nn.Module = stack.rotary_emb
        kept = attention.k_proj.out_features // attention.head_dim
        asking = attention.q_proj.out_features // attention.head_dim
        self._shape = Heads(asking, kept, attention.scaling)
        self._together = self.repeatable and copies_fit(matrices_of(anatomy.blocks))
        self._nothing = torch.empty(0, 2 * kept, attention.head_dim)
        self._tables: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))
        exact = HEAD_BITS[BITS[name]] is None
        head = OnnxHead(self._sessions.head(anatomy), anatomy.head, exact=exact)
        self.anatomy = replace(anatomy, head=head)

    @property
    def repeatable(self) -> bool:
        """Eight-bit products round the states too, by all that are multiplied together."""
        return BITS[self.name] != 8

    def row(self, **inputs: Any) -> OnnxRow:
        """Begin a text; these families read nothing but it."""
        return OnnxRow(self.anatomy.depth)

    def embed(
        self, tokens: Int[Tensor, " tokens"], pieces: Sequence[Piece]
    ) -> Float[Tensor, "tokens width"]:
        """Give exit 0."""
        return self._embeddings(tokens)  # type: ignore[no-any-return]

    def run(
        self,
        states: Float[Tensor, "tokens width"],
        start: int,
        stop: int,
        pieces: Sequence[Piece],
    ) -> Float[Tensor, "tokens width"]:
        """Take exit ``start`` to exit ``stop``.

        Raises:
            CacheError: The blocks of the span have seen different numbers of a row's tokens.
        """
        if start == stop:
            return states
        if self._together and len(pieces) > 1 and len(states) < FEW * len(pieces):
            return self._run_together(states.detach(), start, stop, pieces)
        segments = self._sessions.between(self.anatomy, start, stop)
        parts = torch.split(states.detach().contiguous(), [count for _, count in pieces])
        found = [
            self._run(part, segments, row) for (row, _), part in zip(pieces, parts, strict=True)
        ]
        return found[0] if len(found) == 1 else torch.cat(found)

    def _run_together(
        self,
        states: Float[Tensor, "tokens width"],
        start: int,
        stop: int,
        pieces: Sequence[Piece],
    ) -> Float[Tensor, "tokens width"]:
        """Take several texts' tokens through blocks; each text attends to itself."""
        places = torch.cat([_places(row, start, stop, count) for row, count in pieces])
        cosine, sine = self._turns(max(int(places.max()) + 1, len(states)))  # it asks for as many
        tables = {PLACES: places[None], COSINE: cosine, SINE: sine}
        attention = Attention(self._shape, pieces, start, states.device)
        states = states[None].contiguous()
        count, width = self._shape.queries + 2 * self._shape.keys, self._nothing.shape[-1]
        heads = states.new_empty(*states.shape[:2], count, width)
        for index in range(start, stop):
            before, after = self._sessions.halves(self.anatomy, index)
            called(before, {STATES: states, **tables}, heads.flatten(2))
            seen = attention.seen(index, heads[0]).contiguous()
            states = called(after, {SEEN: seen[None], STATES: states}, torch.empty_like(states))
        return states[0]

    def copy_up(
        self, states: Float[Tensor, "tokens width"], start: int, pieces: Sequence[Piece]
    ) -> int:
        """Let blocks from ``start`` on remember these states, by the model's own float32 weights.

        Keys and values are two small products a block, so PyTorch makes them.
        """
        places = [_places(row, start, self.anatomy.depth, count) for row, count in pieces]
        if start == self.anatomy.depth:
            return 0
        where = torch.cat(places)
        cosine, sine = (each[where][:, None] for each in self._turns(int(where.max()) + 1))
        for index, block in enumerate(self.anatomy.blocks[start:], start):
            remember(pieces, index, _remembered(block, states.detach(), cosine, sine))
        return 0

    def _run(
        self, states: Float[Tensor, "tokens width"], segments: Sequence[Segment], row: OnnxRow
    ) -> Float[Tensor, "tokens width"]:
        """Take one text's tokens through segments that follow each other."""
        span = range(segments[0].start, segments[-1].stop)
        after = one_length(row, span.start, span.stop) + len(states)
        rooms = [row.with_room(block, after, like=self._nothing).shape[1] for block in span]
        tables = self._turns(max(rooms))
        row.last.fill_(after - 1)
        row.total.fill_(after)
        for segment in segments:
            call = row.call(segment, tables)
            out = torch.empty_like(states)
            call.bind_ortvalue_input(STATES, as_value(states[None]))
            call.bind_ortvalue_output(OUT, as_value(out[None]))
            segment.session.run_with_iobinding(call)
            row.lengths[segment.start : segment.stop] = [after] * (segment.stop - segment.start)
            states = out
        return states

    def _turns(self, positions: int) -> tuple[Tensor, Tensor]:
        """Give cosines and sines of at least so many positions, [positions, half a head]."""
        if len(self._tables[0]) < positions:
            half = self._nothing.shape[-1] // 2
            cosine, sine = self._rotary(self._nothing, torch.arange(2 * positions)[None])
            self._tables = cosine[0, :, :half].contiguous(), sine[0, :, :half].contiguous()
        return self._tables


def _places(row: OnnxRow, start: int, stop: int, count: int) -> Int[Tensor, " tokens"]:
    seen = one_length(row, start, stop) if start < stop else 0
    return torch.arange(seen, seen + count)


def _remembered(
    block: Any,
    states: Float[Tensor, "tokens width"],
    cosine: Float[Tensor, "tokens one half"],
    sine: Float[Tensor, "tokens one half"],
) -> Float[Tensor, "tokens heads head"]:
    """Give what a block's cache keeps of states: turned keys of all heads, then values."""
    attention = block.self_attn
    normed = block.input_layernorm(states)
    shape = (len(states), -1, attention.head_dim)
    keys = attention.k_proj(normed).view(shape)
    if hasattr(attention, "k_norm"):
        keys = attention.k_norm(keys)
    low, high = keys.chunk(2, dim=-1)
    turned = torch.cat((low * cosine - high * sine, high * cosine + low * sine), dim=-1)
    return torch.cat((turned, attention.v_proj(normed).view(shape)), dim=1)


def fits_onnx(anatomy: Anatomy) -> bool:
    """Tell whether ``OnnxEngine`` computes what this model's blocks do."""
    if not fits(anatomy):
        return False
    stack: Any = anatomy.stack
    attention: Any = anatomy.blocks[0].self_attn
    weights = [*anatomy.blocks.parameters(), *anatomy.head.parameters()]
    return (
        getattr(stack.rotary_emb, "rope_type", "default") in ROTARIES
        and attention.head_dim % HEAD_STEP == 0
        and type(anatomy.head) is nn.Linear
        and all(each.dtype == torch.float32 and each.device.type == "cpu" for each in weights)
    )
