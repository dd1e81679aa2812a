"""The blocks of Llama and its like, run with as few operations as PyTorch allows.

In:  an ``Anatomy`` of a family that ``fits``. Out: an engine over the model's own weights, of which
     it keeps no copy.
Law: it gives what the family's own blocks give, up to the order of sums in float32
     (tests/blocks/test_engines.py).
Not here: other families (offramp.blocks.engines.family).

Where the time goes: one step of one token reads every weight once, and nothing else that is large.
So what can be saved beside transformers' own forward is everything between the products: masks
that hide nothing, keys copied at every step because a cache grows by concatenation, repeated heads.
Here each text has a cache with room to grow, written in place; query heads that share a key head
are lines of one product; and a mask is made only for several tokens that follow others.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everyone uses
from jaxtyping import Float, Int
from torch import Tensor, nn

from offramp.blocks.anatomy import Anatomy
from offramp.blocks.engines.engine import Piece
from offramp.errors import CacheError

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Norm, rotated queries and keys, output, norm, gated unit; nothing else between."""

ROOM = 128
"""Tokens that a cache has room for at first; it doubles."""


class PlainRow:
    """Keys and values of one text, [heads, room, width of a head] for each block."""

    def __init__(self, depth: int) -> None:
        self.lengths = [0] * depth
        self.kept: list[tuple[Tensor, Tensor] | None] = [None] * depth

    def cut(self, length: int) -> None:
        """Forget all tokens from ``length`` on; their places are written over."""
        self.lengths = [min(each, length) for each in self.lengths]

    def add(
        self,
        block: int,
        keys: Float[Tensor, "tokens heads width"],
        values: Float[Tensor, "tokens heads width"],
    ) -> tuple[Tensor, Tensor]:
        """Remember the next tokens of a block, and give all of it, [heads, seen, width]."""
        before = self.lengths[block]
        after = before + keys.shape[0]
        kept = self.kept[block]
        if kept is None or kept[0].shape[1] < after:
            kept = self.kept[block] = self._grown(kept, keys, before=before, after=after)
        for store, new in zip(kept, (keys, values), strict=True):
            store[:, before:after] = new.transpose(0, 1)
        self.lengths[block] = after
        return kept[0][:, :after], kept[1][:, :after]

    @staticmethod
    def _grown(
        kept: tuple[Tensor, Tensor] | None, like: Tensor, *, before: int, after: int
    ) -> tuple[Tensor, Tensor]:
        room = max(ROOM, 2 * before, after + ROOM // 2)
        new = like.new_empty(2, like.shape[1], room, like.shape[2])
        if kept is not None:
            for store, old in zip(new, kept, strict=True):
                store[:, :before] = old[:, :before]
        return new[0], new[1]


class PlainEngine:
    """Runs blocks of a model of ``FAMILIES``.

    Args:
        anatomy: The model's parts, for which ``fits`` says yes.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from offramp.blocks.anatomy import anatomy_of
        >>> config = LlamaConfig(vocab_size=9, hidden_size=8, intermediate_size=8,
        ...     num_hidden_layers=3, num_attention_heads=2)
        >>> engine = PlainEngine(anatomy_of(LlamaForCausalLM(config)))
        >>> pieces = [(engine.row(), 2), (engine.row(), 1)]
        >>> engine.run(engine.embed(torch.tensor([1, 5, 3]), pieces), 0, 3, pieces).shape
        torch.Size([3, 8])
    """

    name = "plain"

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        stack: Any = anatomy.stack
        self._embeddings: nn.Module = stack.get_input_embeddings()
        self._rotary: nn.Module = stack.rotary_emb
        self._head_width: int = _attention(anatomy.blocks[0]).head_dim

    def row(self, **inputs: Any) -> PlainRow:
        """Begin a text; these families read nothing but it."""
        return PlainRow(self.anatomy.depth)

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
        turn = self._turn(states, start, stop, pieces)
        masks = [_mask(row.lengths[start], count, like=states) for row, count in pieces]
        for index in range(start, stop):
            block: Any = self.anatomy.blocks[index]
            attention = _attention(block)
            queries, keys, values = self._heads(attention, block.input_layernorm(states), turn)
            seen = self._attend(index, pieces, masks, (queries, keys, values), attention.scaling)
            states = states + attention.o_proj(seen)
            states = states + block.mlp(block.post_attention_layernorm(states))
        return states

    def copy_up(
        self, states: Float[Tensor, "tokens width"], start: int, pieces: Sequence[Piece]
    ) -> None:
        """Let blocks from ``start`` on remember these states: two small products a block."""
        depth = self.anatomy.depth
        if start == depth:
            return
        turn = self._turn(states, start, depth, pieces)
        for index in range(start, depth):
            block: Any = self.anatomy.blocks[index]
            _, keys, values = self._heads(
                _attention(block), block.input_layernorm(states), turn, queries=False
            )
            at = 0
            for row, count in pieces:
                row.add(index, keys[at : at + count], values[at : at + count])
                at += count

    def _turn(
        self, states: Tensor, start: int, stop: int, pieces: Sequence[Piece]
    ) -> tuple[Tensor, Tensor]:
        """Give what queries and keys are multiplied by for their positions, [N, 1, width] each."""
        positions: list[int] = []
        for row, count in pieces:
            lengths = set(row.lengths[start:stop])
            if len(lengths) > 1:
                raise CacheError(
                    f"blocks {start} to {stop - 1} have seen {sorted(lengths)} tokens; fill the "
                    "shorter ones first, in a span of their own"
                )
            positions.extend(range(row.lengths[start], row.lengths[start] + count))
        where = torch.tensor([positions], device=states.device)
        cosine, sine = self._rotary(states, where)
        half = self._head_width // 2
        sine = torch.cat((-sine[..., :half], sine[..., half:]), dim=-1)
        return cosine[0][:, None], sine[0][:, None]

    def _heads(
        self, attention: Any, normed: Tensor, turn: tuple[Tensor, Tensor], *, queries: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Give queries, keys and values, [N, heads, width]; without queries the keys in place."""
        shape = (normed.shape[0], -1, self._head_width)
        keys = _turned(_named(attention, "k_norm", attention.k_proj(normed).view(shape)), turn)
        values = attention.v_proj(normed).view(shape)
        if not queries:
            return keys, keys, values
        asked = _named(attention, "q_norm", attention.q_proj(normed).view(shape))
        return _turned(asked, turn), keys, values

    def _attend(
        self,
        index: int,
        pieces: Sequence[Piece],
        masks: Sequence[Tensor | None],
        heads: tuple[Tensor, Tensor, Tensor],
        scale: float,
    ) -> Float[Tensor, "tokens width"]:
        """Let each text attend to itself."""
        found = []
        at = 0
        for (row, count), mask in zip(pieces, masks, strict=True):
            queries, keys, values = (each[at : at + count] for each in heads)
            keys, values = row.add(index, keys, values)
            found.append(_attention_of(queries, keys, values, mask, scale))
            at += count
        return found[0] if len(found) == 1 else torch.cat(found)


def fits(anatomy: Anatomy) -> bool:
    """Tell whether ``PlainEngine`` computes what this model's blocks do."""
    config = anatomy.config
    if config.model_type not in FAMILIES or anatomy.blocks[0].training:
        return False
    slides = getattr(config, "use_sliding_window", True)
    windows = getattr(config, "sliding_window", None) if slides else None
    devices = {parameter.device for parameter in anatomy.stack.parameters()}
    return windows is None and len(devices) == 1


def _attention(block: Any) -> Any:
    return block.self_attn


def _named(module: Any, name: str, value: Tensor) -> Tensor:
    part = getattr(module, name, None)
    return value if part is None else part(value)


def _turned(heads: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    cosine, sine = turn
    return torch.addcmul(heads * cosine, heads.roll(heads.shape[-1] // 2, -1), sine)


def _mask(before: int, count: int, *, like: Tensor) -> Tensor | None:
    """Say which of ``before + count`` tokens each new one sees; None where it sees all."""
    if count == 1:
        return None
    return torch.ones(count, before + count, dtype=torch.bool, device=like.device).tril(before)


def _attention_of(
    queries: Float[Tensor, "tokens heads width"],
    keys: Float[Tensor, "kept seen width"],
    values: Float[Tensor, "kept seen width"],
    mask: Tensor | None,
    scale: float,
) -> Float[Tensor, "tokens out"]:
    """Attend, with the query heads that share a key head as lines of one product."""
    count, heads, width = queries.shape
    shared = heads // keys.shape[0]
    lines = (
        queries.view(count, -1, shared, width).transpose(0, 1).reshape(-1, count * shared, width)
    )
    if mask is not None:
        mask = mask.repeat_interleave(shared, dim=0)
    found = F.scaled_dot_product_attention(
        lines[None], keys[None], values[None], attn_mask=mask, scale=scale
    )
    return found[0].view(-1, count, shared * width).transpose(0, 1).reshape(count, heads * width)
