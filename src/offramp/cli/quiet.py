"""Keep what transformers and the hub client say off stderr, unless it is asked for.

Progress bars of a download stay, since minutes without a sign look like a fault; they show
themselves on terminals only.
"""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from huggingface_hub import constants
from huggingface_hub.utils import logging as hub
from huggingface_hub.utils.tqdm import enable_progress_bars
from transformers.utils import logging as transformers

from offramp.errors import ConfigError


@contextmanager
def memory_named(*, device: str, batch_size: int) -> Iterator[None]:
    """Turn an accelerator's want of memory into one line that says what to change.

    Args:
        device: Value of ``--device``.
        batch_size: Value of ``--batch-size``.

    Raises:
        ConfigError: It ran out of memory.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise ConfigError(
            f"out of memory with --device {device} and --batch-size {batch_size}; try a smaller "
            "batch, --dtype bfloat16 or --device cpu"
        ) from None


@contextmanager
def quiet(*, verbose: bool) -> Iterator[None]:
    """Silence warnings and logs of libraries until the block ends.

    Args:
        verbose: Leave everything as it is.
    """
    if verbose:
        yield
        return
    levels = transformers.get_verbosity(), hub.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers.set_verbosity_error()
        hub.set_verbosity(logging.ERROR)
        transformers.disable_progress_bar()  # of loading; it takes the bars of downloads along
        if not constants.HF_HUB_DISABLE_PROGRESS_BARS:
            enable_progress_bars()
        try:
            yield
        finally:
            transformers.set_verbosity(levels[0])
            hub.set_verbosity(levels[1])


@contextmanager
def data_bars_on_terminals_only() -> Iterator[None]:
    """Keep the bars of datasets, which it draws into files and pipes as well, off these."""
    import datasets  # noqa: PLC0415 - only extras bring it

    if sys.stderr.isatty() or datasets.utils.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()
