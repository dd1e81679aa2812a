"""Answer prompts on many workers, each with a model of its own.

In:  settings, prompts that can be read again, and who works. Out: results, in order.
Law: they are those of one process, row by row; what can be refused is refused before the first
     token is made (tests/cli/test_spread.py).
Not here: what an answer is (offramp.cli.answers), who does what when (offramp.scale).
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

from offramp.cli.answers import Result, batches_of
from offramp.cli.prompts import Prompt
from offramp.cli.quiet import memory_named, quiet
from offramp.cli.seq2seq_answers import answers_of
from offramp.cli.settings import Settings
from offramp.cli.spreading import Spread
from offramp.errors import ConfigError, InputError
from offramp.scale.cluster import Cluster, Room, check_ray, connected
from offramp.scale.pool import Do, hired, spread

CHECKED = 1024
"""Prompts that are looked at together before the first one is answered."""

Task = tuple[int, list[Prompt]]
"""A batch: the index of its first prompt, and its prompts."""


def cluster_of(chosen: Spread) -> Cluster:
    """Name the machines that the options ask for.

    Raises:
        ConfigError: A number is out of its range.
    """
    return Cluster(
        address=chosen.ray_address,
        workers=chosen.workers,
        cpus=chosen.worker_cpus or 1,
        gpus=chosen.worker_gpus,
    )


@contextmanager
def spread_answers(
    settings: Settings, prompts: Collection[Prompt], chosen: Spread
) -> Iterator["SpreadAnswers"]:
    """Join the workers, and have one of them look at settings and prompts.

    Raises:
        OfframpError: There are no workers, or the model does not fit settings or prompts.
    """
    cluster = cluster_of(chosen)
    check_ray()
    if cluster.address is None:  # a model fits here, so what is wrong is known before Ray starts
        facts = _looked(Answerer(replace(settings, device="cpu")), prompts)
        with connected(cluster) as room:
            yield SpreadAnswers(settings, prompts, room=room, facts=facts)
        return
    with connected(cluster) as room:
        with hired(room, partial(Answerer, settings)) as ask:
            facts = _looked(ask, prompts)
        yield SpreadAnswers(settings, prompts, room=room, facts=facts)


def _looked(ask: Do, prompts: Iterable[Prompt]) -> dict[str, Any]:
    """Have settings and prompts looked at; give the facts."""
    facts: dict[str, Any] = ask(None)
    for first, some in _cut(prompts, CHECKED):
        ask((first, some, "look"))
    return facts


class SpreadAnswers:
    """The answers of many workers to some prompts, made when asked for."""

    def __init__(
        self, settings: Settings, prompts: Collection[Prompt], *, room: Room, facts: dict[str, Any]
    ) -> None:
        """Take what was looked at."""
        self._settings, self._prompts = settings, prompts
        self._room, self._facts = room, facts

    def facts(self) -> dict[str, Any]:
        """Name all that decides the texts."""
        return self._facts

    def batches(self) -> list[range]:
        """Cut the prompts into batches, the same ones as one process does."""
        return batches_of(len(self._prompts), self._settings.batch_size)

    def results(self, batches: Iterable[range]) -> Iterator[tuple[range, list[Result]]]:
        """Answer batches, in order.

        Raises:
            OfframpError: A worker refuses a prompt, or workers die again and again.
        """
        wanted = list(batches)
        starts = frozenset(batch.start for batch in wanted)
        tasks = partial(_tasks, self._prompts, self._settings.batch_size, starts)
        made = spread(self._room, tasks, partial(Answerer, self._settings))
        for batch in wanted:
            found = next(made, None)
            if found is None or len(found) != len(batch):
                raise InputError(
                    "the file of prompts changed while it was read; run the same command again"
                )
            yield batch, found

    def stream(self) -> None:
        """Refuse to show a text while it is made.

        Raises:
            ConfigError: Always: workers give whole texts.
        """
        raise ConfigError("--stream shows token after token, --engine ray whole texts; leave it")


class Answerer:
    """What a worker does: it loads the model once, then looks at prompts or answers them."""

    def __init__(self, settings: Settings) -> None:
        """Load the model.

        Raises:
            OfframpError: It cannot be loaded, or does not fit the settings.
        """
        self._settings = settings
        with self._quietly():
            self._answers = answers_of(settings, [])

    def __call__(self, task: Any) -> Any:
        """Give the facts (of None), look at prompts, or answer a batch.

        Raises:
            OfframpError: A prompt cannot be answered.
        """
        with self._quietly():
            if task is None:
                return self._answers.facts()
            first, prompts, *looks = task
            self._answers.read({first + place: each for place, each in enumerate(prompts)})
            return None if looks else self._answers.answer(range(first, first + len(prompts)))

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        settings = self._settings
        memory = memory_named(device=settings.device, batch_size=settings.batch_size)
        with quiet(verbose=False), memory:
            yield


def _cut(prompts: Iterable[Prompt], size: int) -> Iterator[Task]:
    """Cut prompts into pieces, one after the other."""
    left, first = iter(prompts), 0
    while some := list(islice(left, size)):
        yield first, some
        first += len(some)


def _tasks(prompts: Iterable[Prompt], size: int, starts: frozenset[int]) -> Iterator[Task]:
    """Give the batches that are wanted."""
    return (each for each in _cut(prompts, size) if each[0] in starts)
