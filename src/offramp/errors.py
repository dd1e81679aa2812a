"""Every error that offramp raises on purpose.

A message says what was wrong, the value it got, what is allowed and what to do next, in one line.
The command line prints that line and exits with code 2; anything else is a bug of ours.

    OfframpError
    ├── ConfigError       (ValueError)         a setting is impossible or contradicts another
    ├── InputError        (ValueError)         a prompt or a file of prompts or results is unusable
    ├── ExitNotFoundError (LookupError)        an exit was asked for that the model does not have
    ├── UnknownLayoutError(TypeError)          a model whose blocks, norm or head cannot be found
    ├── CheckpointError   (ValueError)         a file of weights is damaged, foreign or does not fit
    ├── CacheError        (RuntimeError)       a key-value cache cannot do what was asked of it
    ├── DownloadError     (ConnectionError)    the embedded default could not be fetched
    ├── ScaleError        (RuntimeError)       a cluster cannot be joined, or its workers die
    └── Busy              (RuntimeError)       too many texts wait already; try again later
"""


class OfframpError(Exception):
    """Base of every deliberate error."""


class ConfigError(OfframpError, ValueError):
    """A setting is impossible or contradicts another."""


class InputError(OfframpError, ValueError):
    """A prompt, a file of prompts or an output file is unusable."""


class ExitNotFoundError(OfframpError, LookupError):
    """An exit was asked for that the model does not have."""


class UnknownLayoutError(OfframpError, TypeError):
    """The blocks, last norm or head of a model cannot be found."""


class CheckpointError(OfframpError, ValueError):
    """A file of weights is damaged, foreign, or does not fit the base model."""


class CacheError(OfframpError, RuntimeError):
    """A key-value cache cannot do what was asked of it."""


class DownloadError(OfframpError, ConnectionError):
    """The embedded default model could not be fetched."""


class ScaleError(OfframpError, RuntimeError):
    """A cluster cannot be joined, has no room, or its workers die."""


class Busy(OfframpError, RuntimeError):  # noqa: N818 - a state, not a fault
    """Too many texts wait already.

    Attributes:
        retry_after: Seconds after which another try is likely to succeed.
    """

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def first_line(error: BaseException) -> str:
    """Give the first line of what a library said, to be quoted in a message of one line.

    Example:
        >>> first_line(ValueError("no such file."))
        'no such file'
    """
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__
