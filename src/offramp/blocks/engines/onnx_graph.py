"""Write some blocks of Llama's layout down as an ONNX graph.

In:  blocks i to j - 1 and how to hold their weights. Out: a small model file in memory, and the
     weights beside it, so that the 2 GB that such a file may have at most are never reached.
Law: the graph gives what the blocks give (tests/blocks/test_onnx.py).
Not here: running it (offramp.blocks.engines.onnx), how weights become 8 or 4 bits
     (offramp.blocks.engines.block_weights).

The file is written by hand instead of traced: a block is nine or ten large operations, and which
ones they are is what makes it fast. For one text attention is one of them (``GroupQueryAttention``
of ONNX Runtime), which turns queries and keys, and writes into a cache that is given to it as input
and as output. For several texts, each with a cache of its own, a block is two graphs, what comes
before attention and what comes after. Queries, keys and values are one product; so are both halves
of the gated unit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
import torch
from onnx import helper
from torch import Tensor, nn

from offramp.blocks.engines.block_weights import BLOCK, in_blocks

MICROSOFT = "com.microsoft"
OPSETS = (("", 20), (MICROSOFT, 1))
IR_VERSION = 10
ACCURACY = {8: 4, 4: 1}
"""How ``MatMulNBits`` reads states, by the bits of a weight: 1 as they are, 4 rounded to 8 bits.

Rounded states cost exactness: the last digit of a sum, which depends on how many tokens are run at
once, now and then moves a state to the next of 256 numbers, and 30 blocks make 1.5 % of it. So
weights of 4 bits are multiplied with states as they are. With 8 bits that took twenty times as long
(docs/lab-log.md, 2026-11-22).
"""
STATES, OUT, LAST, TOTAL = "states", "out", "last", "total"
COSINE, SINE = "cosine", "sine"
PLACES, SEEN = "places", "seen"
"""Names of inputs and of the output; keys and values are ``past_keys.3``, ``keys.3`` and so on."""

_TYPES = {
    torch.float32: onnx.TensorProto.FLOAT,
    torch.uint8: onnx.TensorProto.UINT8,
    torch.int64: onnx.TensorProto.INT64,
}


@dataclass(kw_only=True)
class Graph:
    """Nodes and weights, as they are collected.

    Attributes:
        bits: Of a weight: 8 or 4; None is float32.
    """

    bits: int | None
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)

    def node(self, kind: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> str:
        """Add an operation, and give the name of its first output."""
        domain = "" if kind in _STANDARD else MICROSOFT
        self.nodes.append(helper.make_node(kind, inputs, outputs, domain=domain, **attributes))
        return outputs[0]

    def weight(self, name: str, value: Tensor) -> str:
        """Add a constant."""
        self.weights[name] = value.detach().contiguous()
        return name

    def product(self, name: str, states: str, parts: Sequence[nn.Linear]) -> str:
        """Multiply with the weights of linear layers that read the same, one after the other."""
        weights: list[Tensor] = [part.weight for part in parts]
        matrix = weights[0] if len(weights) == 1 else torch.cat(weights)
        bias = self._bias(name, parts)
        if self.bits is None:
            inputs = [states, self.weight(f"{name}.weight", matrix.T)]
            if not bias:
                return self.node("MatMul", inputs, name)
            return self.node("Add", [self.node("MatMul", inputs, f"{name}.product"), *bias], name)
        lines, depth = matrix.shape
        packed, scales = in_blocks(matrix.detach(), bits=self.bits)
        kept = [self.weight(f"{name}.packed", packed), self.weight(f"{name}.scales", scales)]
        inputs = [states, *kept, *(["", "", *bias] if bias else [])]
        sizes = {"K": depth, "N": lines, "bits": self.bits, "block_size": BLOCK}
        return self.node("MatMulNBits", inputs, name, **sizes, accuracy_level=ACCURACY[self.bits])

    def _bias(self, name: str, parts: Sequence[nn.Linear]) -> list[str]:
        if all(part.bias is None for part in parts):
            return []
        found: list[Tensor] = [
            part.weight.new_zeros(len(part.weight)) if part.bias is None else part.bias
            for part in parts
        ]
        return [self.weight(f"{name}.bias", torch.cat(found))]

    def file(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> bytes:
        """Give the model file, whose weights are elsewhere."""
        constants = [_constant(name, value) for name, value in self.weights.items()]
        graph = helper.make_graph(self.nodes, "offramp", inputs, outputs, constants)
        opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        return bytes(model.SerializeToString())


_STANDARD = frozenset(
    {"Add", "Concat", "MatMul", "Mul", "Reshape", "SimplifiedLayerNormalization", "Split"}
)


def blocks_graph(
    blocks: Sequence[Any], start: int, *, bits: int | None
) -> tuple[bytes, dict[str, Tensor]]:
    """Write blocks down, for T new tokens of one text.

    Args:
        blocks: Those of a model of Llama's layout, in order.
        start: The number of the first.
        bits: Of a weight: 8 or 4; None is float32.

    Returns:
        The file, and its weights by name. Inputs are ``states`` [1, T, D], the tables ``cosine``
        and ``sine`` [M, half a head's width], ``last`` [1] and ``total`` [1] (how many tokens have
        been seen with these, ``last`` one less), and each block's cache [1, heads, room, width];
        outputs are ``out`` [1, T, D] and the caches again, for the same memory.
    """
    graph = Graph(bits=bits)
    added, residual = "", STATES
    for index, block in enumerate(blocks, start):
        normed, residual = _normed(graph, f"{index}.before", added, residual, block.input_layernorm)
        attended = _attention(graph, index, block.self_attn, normed)
        normed, residual = _normed(
            graph, f"{index}.between", attended, residual, block.post_attention_layernorm
        )
        added = _gated(graph, index, block.mlp, normed)
    graph.node("Add", [added, residual], OUT)
    numbers = range(start, start + len(blocks))
    return graph.file(_inputs(blocks[0], numbers), _outputs(blocks[0], numbers)), graph.weights


def halves_graphs(
    block: Any, *, bits: int | None
) -> tuple[tuple[bytes, dict[str, Tensor]], tuple[bytes, dict[str, Tensor]]]:
    """Write a block down but for its attention, for T tokens of any texts.

    Args:
        block: Of a model of Llama's layout.
        bits: Of a weight: 8 or 4; None is float32.

    Returns:
        What comes before attention, from ``states`` [1, T, D], ``places`` [1, T] (each token's in
        its text) and the tables ``cosine`` and ``sine`` to ``out`` [1, T, heads], turned queries,
        turned keys and values; and what comes after, from ``seen`` [1, T, queries] and ``states``
        to ``out`` [1, T, D].
    """
    attention = block.self_attn
    depth, width = attention.q_proj.in_features, attention.head_dim
    asking, kept = (width * count for count in _heads(attention))
    before = Graph(bits=bits)
    normed, _ = _normed(before, "before", "", STATES, block.input_layernorm)
    parts = _asked(before, 0, attention, normed)
    if parts[1]:
        both = before.node("Concat", parts[:2], "both", axis=-1)
        values = parts[2]
    else:
        sizes = before.weight("sizes", torch.tensor([asking + kept, kept]))
        both, values = "both", "values"
        before.node("Split", [parts[0], sizes], both, values, axis=-1)
    turned = before.node("RotaryEmbedding", [both, PLACES, COSINE, SINE], "turned")
    before.node("Concat", [turned, values], OUT, axis=-1)
    after = Graph(bits=bits)
    attended = after.product("attended", SEEN, [attention.o_proj])
    normed, residual = _normed(after, "between", attended, STATES, block.post_attention_layernorm)
    after.node("Add", [_gated(after, 0, block.mlp, normed), residual], OUT)
    states = _float(STATES, 1, "tokens", depth)
    places = helper.make_tensor_value_info(PLACES, onnx.TensorProto.INT64, [1, "tokens"])
    first = before.file([states, places, *_tables(block)], [_float(OUT, 1, "tokens", "heads")])
    last = after.file(
        [_float(SEEN, 1, "tokens", asking), states], [_float(OUT, 1, "tokens", depth)]
    )
    return (first, before.weights), (last, after.weights)


def head_graph(head: nn.Linear, *, bits: int | None) -> tuple[bytes, dict[str, Tensor]]:
    """Write a vocabulary head down, from ``states`` [1, T, D] to ``out`` [1, T, V]."""
    graph = Graph(bits=bits)
    graph.product(OUT, STATES, [head])
    vocab, width = head.weight.shape
    inputs, outputs = [_float(STATES, 1, "T", width)], [_float(OUT, 1, "T", vocab)]
    return graph.file(inputs, outputs), graph.weights


def cache_names(index: int) -> tuple[tuple[str, str], tuple[str, str]]:
    """Give the names of a block's keys and values, as inputs and as outputs."""
    return (f"past_keys.{index}", f"keys.{index}"), (f"past_values.{index}", f"values.{index}")


def _normed(graph: Graph, name: str, added: str, residual: str, norm: Any) -> tuple[str, str]:
    """Add what a unit gave, and norm the sum; before the first unit there is nothing to add."""
    weight = graph.weight(f"{name}.weight", norm.weight)
    epsilon = float(norm.variance_epsilon)
    if not added:
        kind = "SimplifiedLayerNormalization"
        return graph.node(kind, [residual, weight], name, epsilon=epsilon, axis=-1), residual
    outputs = (name, "", "", f"{name}.sum")
    graph.node(
        "SkipSimplifiedLayerNormalization", [added, residual, weight], *outputs, epsilon=epsilon
    )
    return name, outputs[-1]


def _attention(graph: Graph, index: int, attention: Any, normed: str) -> str:
    """Attend, and give the output of the unit."""
    (past_keys, keys), (past_values, values) = cache_names(index)
    heads, kept = _heads(attention)
    seen = graph.node(
        "GroupQueryAttention",
        [
            *_asked(graph, index, attention, normed),
            past_keys,
            past_values,
            LAST,
            TOTAL,
            COSINE,
            SINE,
        ],
        *(f"{index}.seen", keys, values),
        num_heads=heads,
        kv_num_heads=kept,
        scale=float(attention.scaling),
        do_rotary=1,
    )
    return graph.product(f"{index}.attended", seen, [attention.o_proj])


def _asked(graph: Graph, index: int, attention: Any, normed: str) -> list[str]:
    """Give queries, keys and values; all three as the first where no head is normed for itself."""
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    if not hasattr(attention, "q_norm"):
        return [graph.product(f"{index}.asked", normed, parts), "", ""]
    asked = [
        graph.product(f"{index}.{name}", normed, [part])
        for name, part in zip(("queries", "new_keys", "new_values"), parts, strict=True)
    ]
    for place, norm in enumerate((attention.q_norm, attention.k_norm)):
        asked[place] = _heads_normed(graph, asked[place], norm, width=attention.head_dim)
    return asked


def _heads(attention: Any) -> tuple[int, int]:
    """Tell how many heads ask, and how many are kept."""
    width = attention.head_dim
    return attention.q_proj.out_features // width, attention.k_proj.out_features // width


def _heads_normed(graph: Graph, name: str, norm: Any, *, width: int) -> str:
    """Norm each head for itself (Qwen 3)."""
    apart = graph.weight(f"{name}.apart", torch.tensor([0, 0, -1, width]))
    together = graph.weight(f"{name}.together", torch.tensor([0, 0, -1]))
    each = graph.node("Reshape", [name, apart], f"{name}.each")
    each, _ = _normed(graph, f"{name}.norm", "", each, norm)
    return graph.node("Reshape", [each, together], f"{name}.normed")


def _gated(graph: Graph, index: int, unit: Any, normed: str) -> str:
    """Run the gated unit; SiLU is ``QuickGelu`` with a factor of 1."""
    both = graph.product(f"{index}.both", normed, [unit.gate_proj, unit.up_proj])
    gate, up = f"{index}.gate", f"{index}.up"
    graph.node("Split", [both], gate, up, axis=-1, num_outputs=2)
    opened = graph.node("QuickGelu", [gate], f"{index}.opened", alpha=1.0)
    inner = graph.node("Mul", [opened, up], f"{index}.inner")
    return graph.product(f"{index}.given", inner, [unit.down_proj])


def _float(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)


def _inputs(block: Any, numbers: range) -> list[onnx.ValueInfoProto]:
    counts = [
        helper.make_tensor_value_info(name, onnx.TensorProto.INT32, [1]) for name in (LAST, TOTAL)
    ]
    states = _float(STATES, 1, "tokens", block.self_attn.q_proj.in_features)
    past = [name for index in numbers for name, _ in cache_names(index)]
    return [states, *counts, *_tables(block), *_caches(block, past)]


def _tables(block: Any) -> list[onnx.ValueInfoProto]:
    return [_float(name, "positions", block.self_attn.head_dim // 2) for name in (COSINE, SINE)]


def _outputs(block: Any, numbers: range) -> list[onnx.ValueInfoProto]:
    out = _float(OUT, 1, "tokens", block.self_attn.q_proj.in_features)
    return [out, *_caches(block, [name for index in numbers for _, name in cache_names(index)])]


def _caches(block: Any, names: Sequence[str]) -> list[onnx.ValueInfoProto]:
    _, kept = _heads(block.self_attn)
    return [_float(name, 1, kept, f"room of {name}", block.self_attn.head_dim) for name in names]


def _constant(name: str, value: Tensor) -> onnx.TensorProto:
    """Name a constant whose values are given beside the file; shapes are given in it."""
    if value.dtype == torch.int64:
        return helper.make_tensor(name, _TYPES[value.dtype], value.shape, value.tolist())
    found = onnx.TensorProto(
        name=name,
        data_type=_TYPES[value.dtype],
        dims=value.shape,
        data_location=onnx.TensorProto.EXTERNAL,
    )
    found.external_data.add(key="location", value="memory")
    return found
