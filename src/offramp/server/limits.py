"""How much one client may ask for.

In:  what whoever starts the server chose. Out: checked values.
Not here: enforcing them (offramp.server.guards, offramp.server.asking); how many texts run and
     wait (offramp.server.batching).
"""

from dataclasses import dataclass

from offramp.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is refused above these.

    Attributes:
        body: Bytes of a request's body.
        body_seconds: Time that a body may take to arrive.
        prompt: Tokens of a prompt; None is what the model's context leaves.
        new_tokens: Tokens of a text.
        texts: Texts of one request: prompts times ``n``.
        stops: Stop strings of one request, of at most 256 characters each.
        logprobs: Best tokens that are told at each place.
        requests: Requests that are open at a time, of all kinds.
        traced: Positions of one trace, times the exits that are asked.

    Raises:
        ConfigError: A number is not above 0.

    Example:
        >>> Limits(new_tokens=100).body
        1048576
    """

    body: int = 1 << 20
    body_seconds: float = 30.0
    prompt: int | None = None
    new_tokens: int = 2048
    texts: int = 32
    stops: int = 16
    logprobs: int = 20
    requests: int = 256
    traced: int = 16_384

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be above 0, got {value}; leave it at its default")
