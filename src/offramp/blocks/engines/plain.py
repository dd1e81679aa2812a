"""The blocks of Llama and its like, run with as few operations as PyTorch allows.

In:  an ``Anatomy`` of a family that ``fits``. Out: an engine over the model's own weights.
Law: it gives what the family's own blocks give, up to the order of sums in float32
     (tests/blocks/test_engines.py).
Not here: other families (offramp.blocks.engines.family).

Where the time goes: a step of one token reads every weight once, and nothing else that is large.
What can be saved beside transformers' own forward is all between the products, where each
operation costs microseconds whatever it does, some forty of them a block: masks that hide nothing,
keys copied at every step because a cache grows by concatenation, repeated heads, three products for
queries, keys and values. Here

- one product gives queries, keys and values; its matrix is a copy, the only one (an eighth of a
  small Llama), made anew for each call of ``generate``, so it is never stale;
- its rows are ordered so that the two numbers a rotation turns lie side by side: then the rotation
  is one complex product (queries and keys are reordered alike, so their products stay);
- each text has a cache with room to grow, written in place, keys and values at once;
- PyTorch keeps nothing for gradients (inference mode): states can be read, not trained on;
- norms are four operations (offramp.blocks.engines.norm), rotations are made in place;
- query heads that share a key head are lines of one product;
- what a product adds to the state is added by the product;
- texts with one new token each attend in one call (offramp.blocks.engines.gangs).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everyone uses
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from offramp.blocks.anatomy import Anatomy
from offramp.blocks.engines.attention import Attention, Heads
from offramp.blocks.engines.engine import Piece
from offramp.blocks.engines.norm import Norm
from offramp.blocks.engines.slots import SlotRow, one_length, remember
from offramp.blocks.products import Matrix

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Norm, rotated queries and keys, output, norm, gated unit; nothing else between."""


class _Block(NamedTuple):
    """The weights of one block."""

    first_norm: Norm
    heads: Matrix
    heads_norm: Tensor | None
    out: Matrix
    second_norm: Norm
    gate: Matrix
    up: Matrix
    down: Matrix


class PlainEngine:
    """Runs blocks of a model of ``FAMILIES``.

    Args:
        anatomy: The model's parts, for which ``fits`` says yes.
        packed: Keep the blocks' matrices once more, laid out for a few lines at a time.

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

    repeatable = True

    def __init__(self, anatomy: Anatomy, *, packed: bool = False) -> None:
        self.anatomy, self._packed = anatomy, packed
        self.name = "packed" if packed else "plain"
        stack: Any = anatomy.stack
        config: Any = anatomy.config
        self._embeddings: nn.Module = stack.get_input_embeddings()
        self._rotary: nn.Module = stack.rotary_emb
        self._width: int = _attention(anatomy.blocks[0]).head_dim
        self._queries: int = config.num_attention_heads
        self._keys: int = config.num_key_value_heads
        scale: float = _attention(anatomy.blocks[0]).scaling
        self._shape = Heads(self._queries, self._keys, scale)
        self._epsilon: float = config.rms_norm_eps
        with torch.no_grad():
            self._blocks = [self._weights(block) for block in anatomy.blocks]

    def row(self, **inputs: Any) -> SlotRow:
        """Begin a text; these families read nothing but it."""
        return SlotRow(self.anatomy.depth)

    def embed(
        self, tokens: Int[Tensor, " tokens"], pieces: Sequence[Piece]
    ) -> Float[Tensor, "tokens width"]:
        """Give exit 0."""
        return self._embeddings(tokens)  # type: ignore[no-any-return]

    @torch.inference_mode()
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
        attention = Attention(self._shape, pieces, start, states.device)
        for index in range(start, stop):
            block = self._blocks[index]
            heads = self._heads(block, block.first_norm(states), turn)
            states = block.out.added(states, attention.seen(index, heads))
            normed = block.second_norm(states)
            unit = F.silu(block.gate(normed), inplace=True).mul_(block.up(normed))
            states = block.down.added(states, unit)
        return states

    @torch.inference_mode()
    def copy_up(
        self, states: Float[Tensor, "tokens width"], start: int, pieces: Sequence[Piece]
    ) -> int:
        """Let blocks from ``start`` on remember these states: one small product a block."""
        depth = self.anatomy.depth
        if start == depth:
            return 0
        turn = self._turn(states, start, depth, pieces)
        for index in range(start, depth):
            block = self._blocks[index]
            heads = self._heads(block, block.first_norm(states), turn)
            remember(pieces, index, heads[:, self._queries :])
        return 0

    def _weights(self, block: Any) -> _Block:
        """Collect a block's weights, and join those of its heads."""
        attention, unit = _attention(block), block.mlp
        parts = [attention.q_proj, attention.k_proj, attention.v_proj]
        bias, norms = None, None
        if parts[0].bias is not None:
            turned = [self._reordered(each.bias) for each in parts[:2]]
            bias = torch.cat((*turned, parts[2].bias))
        if hasattr(attention, "q_norm"):
            each = [self._reordered(norm.weight) for norm in (attention.q_norm, attention.k_norm)]
            norms = torch.cat((each[0].expand(self._queries, -1), each[1].expand(self._keys, -1)))
        joined = torch.cat((*(self._reordered(part.weight) for part in parts[:2]), parts[2].weight))
        return _Block(
            first_norm=Norm(block.input_layernorm.weight, self._epsilon),
            heads=Matrix(joined, bias, packed=self._packed),
            heads_norm=norms,
            out=Matrix(attention.o_proj.weight, packed=self._packed),
            second_norm=Norm(block.post_attention_layernorm.weight, self._epsilon),
            gate=Matrix(unit.gate_proj.weight, packed=self._packed),
            up=Matrix(unit.up_proj.weight, packed=self._packed),
            down=Matrix(unit.down_proj.weight, packed=self._packed),
        )

    def _reordered(self, rows: Tensor) -> Tensor:
        """Bring the halves of each head's rows together: 0, half, 1, half + 1, ..."""
        halves = torch.unflatten(rows, 0, (-1, 2, self._width // 2))
        return halves.transpose(1, 2).flatten(0, 2)

    def _turn(
        self, states: Tensor, start: int, stop: int, pieces: Sequence[Piece]
    ) -> Complex[Tensor, "tokens one half"]:
        """Give what queries and keys are turned by at their positions."""
        positions: list[int] = []
        for row, count in pieces:
            seen = one_length(row, start, stop)
            positions.extend(range(seen, seen + count))
        where = torch.tensor([positions], device=states.device)
        cosine, sine = self._rotary(states.float(), where)
        half = self._width // 2
        return torch.complex(cosine[0, :, None, :half], sine[0, :, None, :half])

    def _heads(
        self, block: _Block, normed: Tensor, turn: Complex[Tensor, "tokens one half"]
    ) -> Float[Tensor, "tokens heads width"]:
        """Give turned queries, turned keys, and values."""
        heads = block.heads(normed).view(len(turn), -1, self._width)
        part = heads[:, : self._queries + self._keys]
        if block.heads_norm is not None:
            part.copy_(F.rms_norm(part, (self._width,), eps=self._epsilon) * block.heads_norm)
        exact = part.float()
        torch.view_as_complex(torch.unflatten(exact, -1, (-1, 2))).mul_(turn)
        if exact is not part:
            part.copy_(exact)
        return heads


def fits(anatomy: Anatomy) -> bool:
    """Tell whether ``PlainEngine`` computes what this model's blocks do."""
    config = anatomy.config
    if config.model_type not in FAMILIES or anatomy.blocks[0].training:
        return False
    if getattr(config, "hidden_act", "silu") != "silu":
        return False
    slides = getattr(config, "use_sliding_window", True)
    windows = getattr(config, "sliding_window", None) if slides else None
    devices = {parameter.device for parameter in anatomy.stack.parameters()}
    return windows is None and len(devices) == 1 and _all_plain(anatomy)


def _all_plain(anatomy: Anatomy) -> bool:
    """Tell whether every product is by a plain matrix: not quantised, no adapter, no hooks."""
    if any(each._forward_hooks or each._forward_pre_hooks for each in anatomy.stack.modules()):
        return False
    parts = [
        getattr(owner, name)
        for block in anatomy.blocks
        for owner, names in (
            (_attention(block), ("q_proj", "k_proj", "v_proj", "o_proj")),
            (getattr(block, "mlp", None), ("gate_proj", "up_proj", "down_proj")),
        )
        for name in names
    ]
    return all(
        type(part) is nn.Linear and type(part.weight) in (nn.Parameter, Tensor) for part in parts
    ) and all(parts[place].bias is None for place in range(len(parts)) if place % 7 > 2)


def _attention(block: Any) -> Any:
    return block.self_attn
