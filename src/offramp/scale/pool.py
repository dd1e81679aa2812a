"""Do the same to many things on many machines, each thing once, in order, whoever dies meanwhile.

In:  things to do, read one after the other, and what makes a worker. Out: what was made of each, in
     the order of the things.
Law: what comes out is what one process would make, thing by thing: none is lost and none comes
     twice, also if workers are killed (tests/scale/test_pool.py).
Not here: files (offramp.cli.output), what is done (offramp.cli).
Source: Ray Data, https://docs.ray.io/en/latest/data/batch_inference.html

One task of Ray Data reads the things, on the machine that asks, as fast as they are used up; so
only that machine needs the files. A block of Ray holds one thing: a worker that dies takes at most
the things that it had in hand along, and these are done again by the one that takes its place.
"""

import pickle
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from offramp.errors import OfframpError, ScaleError, first_line
from offramp.scale.cluster import Room

Do = Callable[[Any], Any]
"""Makes something of a thing."""

RETRIES = 3
"""How often a thing is tried again after its worker died; whatever kills each one is its fault."""


class Worker:
    """What does the things in a process of its own; made once, it holds the model.

    An error of ours is a result here, since Ray would wrap it in lines of its own.

    Args:
        make: Makes what does it.
        threads: Of torch.
    """

    def __init__(self, make: Callable[[], Do], threads: int) -> None:
        torch.set_num_threads(threads)
        self._do: Do | None = None
        self._refused: OfframpError | None = None
        try:
            self._do = make()
        except OfframpError as error:
            self._refused = error

    def do(self, thing: Any) -> tuple[Any, OfframpError | None]:
        """Do one thing; give what was made, or why not."""
        if self._do is None:
            return None, self._refused
        try:
            return self._do(thing), None
        except OfframpError as error:
            return None, error

    def __call__(self, block: Any) -> Any:
        """Do the thing of a block of one row."""
        made = [self.do(pickle.loads(each.as_py())) for each in block["thing"]]
        return block.set_column(0, "thing", [[pickle.dumps(each) for each in made]])


@contextmanager
def hired(room: Room, make: Callable[[], Do]) -> Iterator[Do]:
    """Give what asks one worker, which is there until the block ends.

    Args:
        room: Of the cluster that we are connected to.
        make: Makes what does it; called on the worker.
    """
    import ray  # noqa: PLC0415 - only an extra brings it

    kind = ray.remote(Worker).options(num_cpus=room.cpus, num_gpus=room.gpus)
    worker = kind.remote(make, room.cpus)

    def ask(thing: Any) -> Any:
        try:
            return _opened(ray.get(worker.do.remote(thing)))
        except ray.exceptions.ActorDiedError as error:
            raise _died(error) from None

    try:
        yield ask
    finally:
        ray.kill(worker)


def spread(
    room: Room, things: Callable[[], Iterable[Any]], make: Callable[[], Do]
) -> Iterator[Any]:
    """Do things on all workers; give what was made of each, in their order.

    Args:
        room: Of the cluster that we are connected to.
        things: Gives the things, the same ones each time; called on this machine, by a process of
            its own.
        make: Makes what does one of them, the same of the same; called on each worker.

    Raises:
        OfframpError: A thing was refused; what was made of the things before it has been given.
        ScaleError: Whoever tried a thing died, again and again.
    """
    import ray  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ray about itself
        rows = _made(room, things, make).iter_rows()
        try:
            for row in rows:
                yield _opened(pickle.loads(row["thing"]))
        except ray.exceptions.RayTaskError:
            raise  # a bug of ours, with its own lines
        except ray.exceptions.RayError as error:
            raise _died(error) from None


def _made(room: Room, things: Callable[[], Iterable[Any]], make: Callable[[], Do]) -> Any:
    """Plan the work; nothing is done until somebody reads it."""
    import ray.data  # noqa: PLC0415

    from offramp.scale.things import Things  # noqa: PLC0415 - a class of Ray's

    context = ray.data.DataContext.get_current()
    context.target_max_block_size = 1  # a block for each thing, given as soon as it is there
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    read = ray.data.read_datasource(
        Things(things),
        override_num_blocks=1,
        num_cpus=0,
        label_selector={"ray.io/node-id": room.node},
    )
    return read.map_batches(
        Worker,
        fn_constructor_args=(make, room.cpus),
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=room.workers),
        num_cpus=room.cpus,
        num_gpus=room.gpus or None,
        max_restarts=-1,
        max_task_retries=RETRIES,
    )


def _opened(made: tuple[Any, OfframpError | None]) -> Any:
    found, error = made
    if error is not None:
        raise error
    return found


def _died(error: BaseException) -> ScaleError:
    return ScaleError(
        f"a worker died, and so did those that took its place ({first_line(error)[:200]}); look at "
        "its memory, take a smaller --batch-size, and run the same command again"
    )
