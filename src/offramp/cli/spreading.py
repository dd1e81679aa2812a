"""The options of work that is spread over workers: ``--engine``, and what belongs to it.

Only what is said here is read for ``--help``; Ray comes with offramp.scale.
"""

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Annotated

import typer

from offramp.errors import ConfigError

SPREAD = "Many machines"


class Engine(StrEnum):
    """What runs the work."""

    here = "here"
    ray = "ray"


EngineName = Annotated[
    Engine,
    typer.Option(
        "--engine",
        metavar="NAME",
        help="What runs the work: here is this process; ray spreads it over workers, each with a "
        "model of its own, on this machine or a cluster. The results are the same. Needs the extra "
        "ray.",
        rich_help_panel=SPREAD,
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="With --engine ray: a cluster that runs, such as auto or ray://head:10001; without it "
        "one is started on this machine and ended with the command.",
        rich_help_panel=SPREAD,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="With --engine ray: how many workers; by default as many as there is room for.",
        rich_help_panel=SPREAD,
    ),
]
WorkerCpus = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="With --engine ray: threads of a worker; by default 1.",
        rich_help_panel=SPREAD,
    ),
]
WorkerGpus = Annotated[
    float | None,
    typer.Option(
        min=0,
        metavar="X",
        help="With --engine ray: GPUs of a worker, also a part of one; by default one where there "
        "are any.",
        rich_help_panel=SPREAD,
    ),
]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Who does the work; each field is the option of the same name. It changes no result."""

    engine: str = Engine.here.value
    ray_address: str | None = None
    workers: int | None = None
    worker_cpus: int | None = None
    worker_gpus: float | None = None

    def __post_init__(self) -> None:
        if self.on_ray:
            return
        for each in fields(self)[1:]:
            value = getattr(self, each.name)
            if value is not None:
                option = f"--{each.name.replace('_', '-')}"
                raise ConfigError(f"{option} {value} belongs to --engine ray; add it")

    @property
    def on_ray(self) -> bool:
        """Whether workers do it."""
        return self.engine == Engine.ray.value
