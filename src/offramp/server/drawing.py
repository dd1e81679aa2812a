"""Read how tokens are drawn, and refuse what would change a text and is not followed.

In:  a checked request. Out: temperature, cuts and seeds.
Law: what is not followed is refused, never passed over (tests/server/test_openai.py).
Not here: drawing itself (offramp.server.batching).
"""

import json
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from offramp.errors import first_line
from offramp.server.choosing import asked_of
from offramp.server.errors import Refusal
from offramp.server.hosted import CausalHost
from offramp.server.schemas import SEEDS, Count, OpenAIWriting, Writing

SEED_STEP = 1_000_003
"""Between the seeds of two texts of a request, so that requests with seeds 0, 1, ... share none."""
COLDEST = 1e-3
"""Below this temperature the likeliest token is taken: nothing else would ever be drawn."""


class Wished(BaseModel):
    """What is read of the ``generation_config`` that transformers' clients send."""

    model_config = ConfigDict(extra="allow")

    max_new_tokens: Count | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None

    def check(self) -> None:
        """Refuse what would change the text and is not followed.

        Raises:
            Refusal: Such a field is set.
        """
        for name, neutral in _NOT_FOLLOWED.items():
            value = getattr(self, name, None)
            if value not in (None, neutral):
                raise Refusal(
                    400,
                    f"generation_config: {name} {value!r} is not followed here; leave it at "
                    f"{neutral!r}",
                    param="generation_config",
                )


_NOT_FOLLOWED: dict[str, Any] = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "penalty_alpha": 0.0,
    "length_penalty": 1.0,
    "min_new_tokens": 0,
}


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn, with the fields of ``Job`` of the same names."""

    temperature: float
    top_p: float
    top_k: int
    seed: int | None

    def of_text(self, place: int) -> dict[str, Any]:
        """Give the fields of a job, with a seed of its own for each text of a request."""
        seed = None if self.seed is None else (self.seed + place * SEED_STEP) % SEEDS
        return {**vars(self), "seed": seed}


def sampling_of(request: Writing, host: CausalHost, wished: Wished) -> Sampling:
    """Give how tokens are drawn.

    The request says; else its ``generation_config``; else the model's own.

    Raises:
        Refusal: A field contradicts another, or is not followed.
    """
    own = host.model.generation_config
    samples = wished.do_sample if wished.do_sample is not None else bool(own.do_sample)
    asked_k = asked_of(request, request.offramp, name="top_k")

    def first(*values: Any, default: Any) -> Any:
        return next((value for value in values if value is not None), default)

    temperature = request.temperature
    if temperature is None:
        temperature = first(wished.temperature, own.temperature, default=1.0) if samples else 0.0
    return Sampling(
        temperature=0.0 if temperature < COLDEST else temperature,
        top_p=first(request.top_p, wished.top_p, own.top_p, default=1.0),
        top_k=max(0, first(asked_k, wished.top_k, own.top_k if own.do_sample else None, default=0)),
        seed=None if request.seed is None else request.seed % SEEDS,
    )


def wished_of(request: OpenAIWriting) -> Wished:
    """Read the ``generation_config`` of transformers' clients.

    Raises:
        Refusal: It is no JSON object, or asks for what is not followed.
    """
    given = request.generation_config
    try:
        content = json.loads(given) if isinstance(given, str) else given
        wished = Wished.model_validate(content or {})
    except (ValueError, RecursionError, ValidationError) as error:
        raise Refusal(
            400, f"generation_config: {first_line(error)}", param="generation_config"
        ) from None
    wished.check()
    return wished


def refuse_unfollowed(request: OpenAIWriting) -> None:
    """Refuse fields of OpenAI that would change the text and are not followed.

    Raises:
        Refusal: One is set.
    """
    fine: dict[str, tuple[Any, ...]] = {
        "presence_penalty": (0,),
        "frequency_penalty": (0,),
        "logit_bias": ({},),
        "best_of": (request.n or 1,),
        "suffix": ("",),
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "modalities": (["text"],),
    }
    for name, allowed in fine.items():
        value = getattr(request, name, None)
        if value is not None and value not in allowed:
            raise Refusal(
                400, f"{name} is not offered here; leave it out", param=name, code="unsupported"
            )
    shape = getattr(request, "response_format", None)
    if shape is not None and shape.type != "text":
        raise Refusal(
            400,
            f"response_format {shape.type!r} is not offered here; leave it out",
            param="response_format",
            code="unsupported",
        )
