"""Say that a model from outside cannot be run, whatever it trips over.

In:  a block that runs a model or its tokenizer. Out: one line where the block fails.
Law: what is wrong with a folder is found when it is loaded or told here, never shown as a traceback
     on the command line; the error it came from stays its cause (tests/fuzz).
Not here: want of memory (offramp.cli.quiet), files (offramp.models.checkpoint).

Transformers takes many a ``generation_config.json`` and ``tokenizer_config.json`` that it cannot
work with, and weights without a number among them; it says so in any kind of error, and late.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from offramp.errors import CheckpointError, OfframpError, first_line

FAULTS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@contextmanager
def faults_named(name: str) -> Iterator[None]:
    """Turn what goes wrong inside a model into one line.

    Args:
        name: Of the model.

    Raises:
        CheckpointError: Something went wrong that is neither an error of ours nor want of memory.

    Example:
        >>> with faults_named("my-model"):
        ...     torch.tensor([float("nan")]).multinomial(1)
        Traceback (most recent call last):
        ...
        offramp.errors.CheckpointError: my-model cannot be run (RuntimeError: probability ...
    """
    try:
        yield
    except (OfframpError, torch.OutOfMemoryError):
        raise
    except FAULTS as error:
        raise CheckpointError(
            f"{name} cannot be run ({type(error).__name__}: {first_line(error)[:200]}); its "
            "configuration, tokenizer or weights may be damaged: fetch it again"
        ) from error
