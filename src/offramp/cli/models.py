"""``offramp models`` and ``offramp version``: what is there, and where."""

import platform
from importlib.metadata import version as version_of
from typing import Annotated

import typer

from offramp.cli.show import show_json, show_text
from offramp.version import __version__

MODELS_EXAMPLE = "Example: OFFRAMP_CACHE=./models offramp models --json"
VERSION_EXAMPLE = "Example: offramp version --json"
MOVE = "set OFFRAMP_CACHE to a folder to keep models there"

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


def models(*, json: Json = False) -> None:
    """List the models in the cache: size, whether complete, and where.

    The environment variable OFFRAMP_CACHE moves the cache. A model that is not complete was cut
    off while it was made; it is made anew when it is needed.
    """
    # --help needs no torch, which takes seconds to import.
    from offramp.models.default import cache_root, cached_models  # noqa: PLC0415

    found = cached_models()
    if json:
        listed = [
            {
                "name": model.name,
                "path": str(model.path),
                "size_bytes": model.size_bytes,
                "complete": model.complete,
            }
            for model in found
        ]
        show_json({"cache": str(cache_root()), "models": listed})
        return
    for model in found:
        state = "complete" if model.complete else "not complete"
        show_text(f"{model.name}  {model.size_bytes / 1e6:.1f} MB  {state}  {model.path}")
    count = (
        "no models yet" if not found else "1 model" if len(found) == 1 else f"{len(found)} models"
    )
    show_text(f"{count} in {cache_root()}; {MOVE}")


def version(*, json: Json = False) -> None:
    """Show the version of offramp; with --json those of torch and transformers, too."""
    if not json:
        show_text(f"offramp {__version__}")
        return
    others = {name: version_of(name) for name in ("torch", "transformers")}
    show_json({"offramp": __version__, "python": platform.python_version(), **others})
