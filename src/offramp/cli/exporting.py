"""Load a model, export one of its exits, and show what was written.

In:  checked options. Out: a folder, and a line or JSON on stdout.
Not here: the export itself (offramp.models.export).
"""

import time
from dataclasses import asdict

from offramp.cli.export import Export
from offramp.cli.loading import load
from offramp.cli.quiet import quiet
from offramp.cli.show import show_json, show_text
from offramp.models.export import export_exit


def write_export(settings: Export) -> None:
    """Export, and show the result.

    Raises:
        OfframpError: Something was asked for that cannot be done.
    """
    begun = time.perf_counter()
    with quiet(verbose=settings.verbose):
        loaded = load(settings.model, dtype=settings.dtype, device="cpu", exits=settings.exits_from)
        written = export_exit(
            loaded.model,
            settings.output,
            exit=settings.exit,
            tokenizer=loaded.tokenizer,
            overwrite=settings.overwrite,
        )
    if settings.json:
        facts = asdict(written) | {"seconds": round(time.perf_counter() - begun, 3)}
        del facts["base"]  # where it lies on this machine
        show_json({"output": str(settings.output), "model": loaded.name, **facts})
        return
    show_text(
        f"{settings.output}: exit {written.exit} ({written.projection}) of {loaded.name}, "
        f"{written.blocks} of {written.base_blocks} blocks, {written.parameters / 1e6:.1f} M "
        f"parameters, {written.dtype}"
    )
