"""``offramp distill-data``: a teacher writes the targets that another model is trained on.

Only this module and what it imports first is read for ``--help``; torch and transformers come with
offramp.cli.distilling.
Source: Kim and Rush 2016, "Sequence-Level Knowledge Distillation", arXiv:1606.07947, section 3.2
     (the teacher's beam-searched text in place of the reference).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from offramp.cli import options
from offramp.cli.generate import logs_disabled
from offramp.cli.lessons import option
from offramp.cli.options import MACHINE, RESULTS
from offramp.cli.output import check_output
from offramp.cli.seq2seq_options import PAIRS, MaxSourceTokens
from offramp.errors import ConfigError

EXAMPLE = (
    "Example: offramp distill-data --model my-bart --pairs train.jsonl --output distilled.jsonl, "
    "then: offramp finetune --model my-elmer --pairs distilled.jsonl --held-out dev.jsonl "
    "--output my-summaries"
)
WRITING = "How the teacher writes"
BEAMS = 4
"""Of a teacher that writes token by token, unless told."""


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """What was asked for; each field is the option of the same name."""

    model: str
    pairs: Path
    output: Path
    beams: int | None
    length_penalty: float | None
    no_repeat_ngram_size: int | None
    max_new_tokens: int | None
    max_source_tokens: int | None
    limit: int | None
    batch_size: int
    dtype: str
    device: str
    overwrite: bool
    json: bool
    verbose: bool

    def __post_init__(self) -> None:
        if self.length_penalty is not None and self.beams == 1:
            raise ConfigError(
                f"--length-penalty {self.length_penalty} belongs to beams; use --beams {BEAMS}"
            )

    @property
    def only_in_steps(self) -> dict[str, float]:
        """The options that were given and that no ELMER model knows."""
        every = {"beams": self.beams, "length_penalty": self.length_penalty}
        return {name: value for name, value in every.items() if value is not None}


Beams = Annotated[
    int | None,
    option(
        "Beams of a teacher that writes token by token; 1 takes the likeliest token. An ELMER "
        "model has none.",
        WRITING,
        metavar="N",
        default=str(BEAMS),
        least=1,
    ),
]


def distill_data(  # noqa: PLR0913 - one parameter for each option
    *,
    model: Annotated[
        str,
        option(
            "Folder or hub name of an encoder-decoder: the teacher; elmer:NAME reads weights in "
            "BART's format as an ELMER model.",
            PAIRS,
            metavar="NAME",
        ),
    ],
    pairs: Annotated[
        Path,
        option(
            'JSON lines with "source" and "target": those that the student is to be trained on. '
            "The teacher reads the sources alone.",
            PAIRS,
            metavar="FILE",
        ),
    ],
    output: Annotated[
        Path,
        option(
            'JSON lines with "source", "target" (the teacher\'s text), "reference" (the original '
            'target) and "finished" (whether the text was ended or cut off), the longest sources '
            "first. The same command continues a run that was stopped, whatever stopped it.",
            RESULTS,
            metavar="FILE",
        ),
    ],
    beams: Beams = None,
    length_penalty: Annotated[
        float | None,
        option("Of the beams: above 0 for longer texts, below for shorter.", WRITING, metavar="L"),
    ] = None,
    no_repeat_ngram_size: Annotated[
        int | None,
        option("No run of N tokens twice; 0 is off.", WRITING, metavar="N", least=0),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        option(
            "Longest text; by default 128, for ELMER what its canvas has room for.",
            WRITING,
            metavar="N",
            least=1,
        ),
    ] = None,
    max_source_tokens: MaxSourceTokens = None,
    limit: Annotated[int | None, option("Read so many pairs.", PAIRS, metavar="N", least=1)] = None,
    batch_size: Annotated[
        int, option("Sources at a time, of similar length.", MACHINE, metavar="N", least=1)
    ] = 16,
    dtype: options.DtypeName = options.Dtype.auto,
    device: options.Device = "auto",
    overwrite: options.Overwrite = False,
    json: Annotated[
        bool,
        option(
            "One JSON object: output, teacher, decoding, pairs, written, new, empty, unfinished.",
            RESULTS,
            name="--json",
        ),
    ] = False,
    verbose: options.Verbose = False,
) -> None:
    """Let a teacher write a target for every source, as pairs to fine-tune on.

    Texts of one model say one thing in one way where people say it in many;
    a model that writes all tokens at once learns them better (Kim and Rush
    2016). Empty texts are left out and counted. offramp finetune --pairs FILE
    reads the result; measure with the original pairs.
    """
    asked = Distillation(
        model=model,
        pairs=pairs,
        output=output,
        beams=beams,
        length_penalty=length_penalty,
        no_repeat_ngram_size=no_repeat_ngram_size,
        max_new_tokens=max_new_tokens,
        max_source_tokens=max_source_tokens,
        limit=limit,
        batch_size=batch_size,
        dtype=dtype.value,
        device=device,
        overwrite=overwrite,
        json=json,
        verbose=verbose,
    )
    check_output(output, inputs=[pairs])
    # --help and the errors above need no torch, which takes seconds to import.
    with logs_disabled(not verbose):
        from offramp.cli.distilling import distil  # noqa: PLC0415

    distil(asked)
