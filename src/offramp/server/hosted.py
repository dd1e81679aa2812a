"""What is served: models by name, and what each can do.

In:  loaded models. Out: the one that a request names, and the list that clients see.
Law: what the list says a model can do, it does (tests/server/test_app.py).
Not here: loading (offramp.cli.serving); what a request asks a model for (offramp.server.choosing).
"""

import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import cached_property
from itertools import chain
from typing import Any, Literal

from offramp.config import ORIGINAL
from offramp.errors import ConfigError
from offramp.models.context import context_of
from offramp.server.errors import Refusal
from offramp.server.jobs import Writers
from offramp.server.onepass import OnePass
from offramp.server.spelling import Vocabulary

LOWER_SHARE = 0.4
"""Where the lower exit of a contrast lies if nobody found out better."""


class CausalHost:
    """A model that goes on with a text.

    Attributes:
        name: By which requests name it.
        model: With exits.
        tokenizer: Of the model.
        vocabulary: Its tokens.
        writers: Write its texts.
        created: When it was loaded, in seconds since 1970.
    """

    kind: Literal["causal"] = "causal"

    def __init__(self, name: str, model: Any, *, tokenizer: Any, writers: Any) -> None:
        self.name, self.model, self.tokenizer = name, model, tokenizer
        self.writers: Writers = writers
        size = int(model.get_input_embeddings().num_embeddings)
        self.vocabulary = Vocabulary(tokenizer, size=size)
        self.created = int(time.time())

    @cached_property
    def context(self) -> int | None:
        """Positions that the model knows; None is no limit."""
        return context_of(self.model.config)

    @cached_property
    def stop_tokens(self) -> frozenset[int]:
        """Tokens that end a text."""
        ends = self.model.generation_config.eos_token_id
        return frozenset(each for each in ([ends] if isinstance(ends, int) else ends or ()))

    @cached_property
    def has_gates(self) -> bool:
        """Whether an exit has a gate."""
        return any(self.model.exits[str(exit)].gate is not None for exit in self.model.exit_numbers)

    @cached_property
    def default_contrast(self) -> dict[str, Any] | None:
        """The contrast that is meant where a request names no exits."""
        found = None if self.model.calibration is None else self.model.calibration.contrast
        if found is not None and found.used:
            return {"upper": found.upper, "lower": found.lower, "alpha": found.alpha}
        lower = self.exit_near(LOWER_SHARE)
        return None if lower is None else {"upper": ORIGINAL, "lower": lower, "alpha": 0.1}

    @cached_property
    def decodings(self) -> tuple[str, ...]:
        """Ways to decode that a request may name."""
        model, names = self.model, ["plain"]
        below = [exit for exit in model.exit_numbers if exit < model.depth]
        if below:
            names += ["contrast", "exit"]
        if model.depth > 1:
            names.append("dola")
        if below:
            names.append("early_exit")
        if below or model.drafter is not None:
            names.append("speculation")
        return tuple(names)

    @property
    def facts(self) -> dict[str, Any]:
        """What clients are told about it."""
        return {
            "kind": self.kind,
            "depth": self.model.depth,
            "exits": list(self.model.exit_numbers),
            "decodings": list(self.decodings),
            "default_contrast": self.default_contrast,
            "calibrated": self.model.calibration is not None,
            "gates": self.has_gates,
            "chat": self.tokenizer.chat_template is not None,
            "context": self.context,
        }

    @cached_property
    def twin(self) -> Any:
        """The model once more, see ``twin_of``."""
        return twin_of(self.model)

    def exit_near(self, share: float) -> int | None:
        """Give the attached exit, above 0 and below the last, nearest to a share of the depth."""
        depth = self.model.depth
        between = [exit for exit in self.model.exit_numbers if 0 < exit < depth]
        return min(between, key=lambda exit: abs(exit - share * depth), default=None)


class ElmerHost:
    """A model that writes a text for each source in one pass.

    Attributes:
        name: By which requests name it.
        model: An ELMER model.
        tokenizer: Of the model.
        one_pass: Writes its texts.
        created: When it was loaded, in seconds since 1970.
    """

    kind: Literal["elmer"] = "elmer"

    def __init__(self, name: str, model: Any, *, tokenizer: Any) -> None:
        self.name, self.model, self.tokenizer = name, model, tokenizer
        self.one_pass = OnePass(model, deepcopy(tokenizer))
        size = int(model.get_input_embeddings().num_embeddings)
        self.vocabulary = Vocabulary(tokenizer, size=size)
        self.created = int(time.time())

    @cached_property
    def context(self) -> int:
        """Places that the model knows, in a source and on a canvas."""
        return int(self.model.config.max_position_embeddings)

    @cached_property
    def exits(self) -> tuple[int, ...]:
        """Where a place of the canvas may leave; the last is the whole decoder."""
        return tuple(range(1, int(self.model.config.decoder_layers) + 1))

    @cached_property
    def twin(self) -> Any:
        """The model once more, see ``twin_of``."""
        return twin_of(self.model)

    @property
    def facts(self) -> dict[str, Any]:
        """What clients are told about it."""
        return {
            "kind": self.kind,
            "depth": len(self.exits),
            "exits": list(self.exits),
            "decodings": [],
            "default_contrast": None,
            "calibrated": False,
            "gates": bool(self.model.config.gates),
            "chat": False,
            "context": self.context,
        }


def twin_of(model: Any) -> Any:
    """Give a model with the same weights in memory, but modules of its own.

    A trace puts hooks on modules, which must not be seen by the thread that writes.
    """
    tensors = chain(model.parameters(), model.buffers())
    return deepcopy(model, {id(each): each for each in tensors})


Host = CausalHost | ElmerHost


class Hosts:
    """All that is served, the first meant where a request names none."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        """Take models.

        Raises:
            ConfigError: There is none, or two have one name.
        """
        self._hosts = {each.name: each for each in hosts}
        if not hosts or len(self._hosts) < len(hosts):
            names = ", ".join(each.name for each in hosts) or "none"
            raise ConfigError(f"models to serve need different names, got {names}")

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts.values())

    def get(self, name: str | None) -> Host:
        """Give a model by its name, or the first.

        Raises:
            Refusal: There is none of that name.
        """
        if name is None:
            return next(iter(self))
        if name not in self._hosts:
            raise Refusal(
                404,
                f"no model {name!r} is served; use one of {', '.join(self._hosts)}",
                param="model",
                code="model_not_found",
            )
        return self._hosts[name]

    def causal(self, name: str | None) -> CausalHost:
        """Give a model that goes on with texts.

        Raises:
            Refusal: There is none of that name, or it is an ELMER model.
        """
        host = self.get(name)
        if isinstance(host, CausalHost):
            return host
        raise Refusal(
            400,
            f"{host.name} is an ELMER model, which reads a source and writes in one pass; ask "
            "/v1/generate",
            param="model",
        )
