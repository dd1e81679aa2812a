"""Catch exit states while a model runs its own forward, and leave out blocks nobody needs.

In:  an ``Anatomy`` and the exits in use. Out: their states, during one call of the model.
Law: with no block left out, the model computes exactly what it would have computed
     (tests/models/test_multiexit.py); a block left out is not run (same file, by counting calls).
Not here: what the states say (offramp.blocks.projections).
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from offramp.blocks.anatomy import Anatomy
from offramp.errors import UnknownLayoutError

BlockCall = tuple[tuple[Any, ...], dict[str, Any]]
"""What a block was called with after its state: the other positional and the named arguments."""


@dataclass
class Watched:
    """What was seen during one call of the model.

    Attributes:
        states: Exit states [B, T, D] by exit; [N, D] of N positions that were kept on disk.
        head_input: What the base's head was given, cut to the positions asked for.
        calls: How a block was called, for those asked about.
    """

    states: dict[int, Float[Tensor, "*rows width"]] = field(default_factory=dict)
    head_input: Float[Tensor, "*rows out"] | None = None
    calls: dict[int, BlockCall] = field(default_factory=dict)

    def finished(self) -> Float[Tensor, "*rows out"]:
        """Give the base's own input to its head.

        Raises:
            UnknownLayoutError: The base's forward never called its head as a module.
        """
        if self.head_input is None:
            raise UnknownLayoutError(
                "this model does not call its output embeddings as a module, so exits cannot be "
                "placed beside them; pass a layout for a model class that does"
            )
        return self.head_input


@contextmanager
def watch(
    anatomy: Anatomy,
    exits: Collection[int],
    *,
    keep: Callable[[Tensor], Tensor],
    run_head: bool,
    last_block: int,
    calls: Collection[int] = (),
) -> Iterator[Watched]:
    """Record exit states during the calls of the model inside the ``with``.

    Args:
        anatomy: The model's parts.
        exits: Whose states to record, 0 to L.
        keep: Cuts what reaches the base's head to the positions asked for.
        run_head: False: the base's head is given no position at all, so it costs nothing.
        last_block: Blocks from this index on are left out; L runs all.
        calls: Indices of blocks whose call is to be recorded.
    """
    seen = Watched()
    with ExitStack() as restore:
        for exit in exits:
            restore.enter_context(_recorded(anatomy, exit, seen))
        for index in calls:
            restore.enter_context(_call_recorded(anatomy.blocks[index], index, seen))
        restore.enter_context(_head_cut(anatomy.head, seen, keep=keep, run_head=run_head))
        if last_block < anatomy.depth:
            restore.enter_context(_left_out(anatomy, last_block))
        yield seen


@contextmanager
def _recorded(anatomy: Anatomy, exit: int, seen: Watched) -> Iterator[None]:
    def before(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.states[exit] = args[0] if args else named["hidden_states"]

    def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        seen.states[exit] = state_of(output)

    if exit == 0:
        handle = anatomy.blocks[0].register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = anatomy.blocks[exit - 1].register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _call_recorded(block: nn.Module, index: int, seen: Watched) -> Iterator[None]:
    def before(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.calls[index] = call_of(args, named)

    handle = block.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _head_cut(
    head: nn.Module, seen: Watched, *, keep: Callable[[Tensor], Tensor], run_head: bool
) -> Iterator[None]:
    def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        seen.head_input = keep(args[0])
        return (seen.head_input if run_head else seen.head_input[..., :0, :],)

    handle = head.register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _left_out(anatomy: Anatomy, first: int) -> Iterator[None]:
    """Make blocks from ``first`` (at least 1) on hand the last output on as it is."""
    last_output: list[Any] = []

    def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        last_output[:] = [output]

    handle = anatomy.blocks[first - 1].register_forward_hook(after)
    try:
        with replaced_forward(anatomy.blocks[first:], lambda *_, **__: last_output[0]):
            yield
    finally:
        handle.remove()


@contextmanager
def replaced_forward(blocks: nn.ModuleList, forward: Callable[..., Any]) -> Iterator[None]:
    """Give blocks another forward, and back theirs afterwards (one that a library set included)."""
    before = [block.__dict__.get("forward") for block in blocks]
    for block in blocks:
        block.__dict__["forward"] = forward
    try:
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            if own is None:
                del block.__dict__["forward"]
            else:
                block.__dict__["forward"] = own


def state_of(output: Any) -> Float[Tensor, "batch seq width"]:
    """Take the state out of a block's output, which some families wrap in a tuple."""
    return output[0] if isinstance(output, tuple) else output  # type: ignore[no-any-return]


def call_of(args: tuple[Any, ...], named: dict[str, Any]) -> BlockCall:
    """Split off the state from a block's arguments, wherever the family puts it."""
    if args:
        return args[1:], dict(named)
    return (), {name: value for name, value in named.items() if name != "hidden_states"}
