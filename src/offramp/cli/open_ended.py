"""Let a model go on with the beginnings of texts, score what it writes, and show it.

In:  checked settings. Out: a table or JSON on stdout; texts in a file and a picture if asked for.
Law: what can be refused is refused before the first text is written; after an interruption the file
     holds whole lines, and the same command goes on from there (tests/cli/test_open_ended.py).
Not here: scores (offramp.evaluation.open_ended_scores), the table (offramp.cli.open_ended_table).
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from offramp.cli.encoding import check_length, check_tokens
from offramp.cli.kept_texts import Batch, Kept, write_texts
from offramp.cli.loading import Loaded, load, weights_hash
from offramp.cli.open_ended_options import NO_EMBEDDINGS, STRATEGIES, OpenEndedEvaluation
from offramp.cli.open_ended_table import show_ways
from offramp.cli.output import check_output, key_of
from offramp.cli.prompts import Prompt
from offramp.cli.quiet import memory_named, quiet
from offramp.cli.rule import read_rule
from offramp.cli.settings import ExitChoice
from offramp.cli.show import show_json
from offramp.cli.texts import check_readable
from offramp.errors import ConfigError
from offramp.evaluation.embeddings import Embedder
from offramp.evaluation.open_ended import (
    NEW_TOKENS,
    PROMPT_WORDS,
    Continuer,
    Opening,
    Strategy,
    documents_of,
    openings_of,
    parse_strategy,
)
from offramp.evaluation.open_ended_picture import draw_open_ended
from offramp.evaluation.open_ended_report import OpenEndedReport, Way, report_of
from offramp.evaluation.picture import check_picture
from offramp.evaluation.resampling import SAMPLES, Draws
from offramp.evaluation.seq2seq import Written
from offramp.models.multiexit import check_rule


def go_on(settings: OpenEndedEvaluation) -> None:
    """Write, score and show.

    Raises:
        OfframpError: Something was asked for that cannot be done.
        Interrupted: Ctrl-C, with an output file to go on from.
    """
    if settings.picture is not None:
        check_picture(settings.picture)
    if settings.output is not None:
        check_output(settings.output, inputs=[])
    check_readable(settings.data)
    draws = Draws(samples=SAMPLES if settings.samples is None else settings.samples)
    strategies = strategies_of(settings)
    memory = memory_named(device=settings.device, batch_size=settings.batch_size)
    with quiet(verbose=settings.verbose), memory:
        embedder = _embedder(settings)
        loaded = load(
            settings.model,
            dtype=settings.dtype,
            device=settings.device,
            exits=settings.exits_from,
        )
        openings, short = _openings(settings, loaded)
        texts = _Texts(settings, loaded, openings, _continuers(settings, loaded, strategies))
        ways = texts.write()
        report = report_of(
            openings,
            ways,
            embed=embedder,
            embedding_model=embedder.name if embedder else "",
            draws=draws,
        )
    _show(report, settings, loaded, short)


def strategies_of(settings: OpenEndedEvaluation) -> list[Strategy]:
    """Read how tokens are taken, each once.

    Raises:
        ConfigError: A name is unknown, or stands there twice.
    """
    asked = (settings.strategies or STRATEGIES).split(";")
    found = [parse_strategy(each) for each in asked if each.strip()]
    _check_once([each.name for each in found], f"--strategies {settings.strategies!r}")
    return found


def ways_of(settings: OpenEndedEvaluation, model: Any) -> list[ExitChoice]:
    """Read what scores tokens; the first is what others are compared with.

    Raises:
        ConfigError: A way is unknown.
    """
    if settings.ways is None:
        return _usual_ways(settings, model)
    found = []
    for each in settings.ways.split(";"):
        name, _, value = each.strip().partition(":")
        if name == "original" and not value:
            found.append(settings.choice())
        elif name in ("exit", "contrast", "dola") and value:
            found.append(settings.choice(**{name: value}))
        elif each.strip():
            raise ConfigError(
                f"a way is original, exit:N, contrast:UPPER:LOWER or dola:LAYERS, got "
                f"{each.strip()!r}; try contrast:original:12"
            )
    return found


def _usual_ways(settings: OpenEndedEvaluation, model: Any) -> list[ExitChoice]:
    """Give the way that was asked for beside the model's own, or one of each kind."""
    given = {"contrast": settings.contrast, "exit": settings.exit, "dola": settings.dola}
    asked = {name: value for name, value in given.items() if value is not None}
    if asked:
        return [settings.choice(), settings.choice(**asked)]
    exits = [exit for exit in model.exit_numbers if 0 < exit < model.depth]
    if not exits:
        return [settings.choice()]
    deep = min(exits, key=lambda exit: abs(exit - 0.75 * model.depth))
    middle = min(exits, key=lambda exit: abs(exit - 0.5 * model.depth))
    return [
        settings.choice(),
        settings.choice(exit=str(deep)),
        settings.choice(contrast=f"original:{middle}"),
        settings.choice(dola="low"),
    ]


def _continuers(
    settings: OpenEndedEvaluation, loaded: Loaded, strategies: Sequence[Strategy]
) -> list[Continuer]:
    """Make every way with every strategy, once it is known that the model can do it."""
    rules = [read_rule(each) for each in ways_of(settings, loaded.model)]
    _check_once([name for _, name in rules], f"--ways {settings.ways!r}")
    for rule, _ in rules:
        if rule is not None:
            check_rule(loaded.model, rule)
    return [
        Continuer(
            loaded.model,
            loaded.tokenizer,
            strategy=strategy,
            rule=rule,
            decoding=name,
            new_tokens=_new_tokens(settings),
            seed=settings.seed or 0,
        )
        for strategy in strategies
        for rule, name in rules
    ]


def _openings(settings: OpenEndedEvaluation, loaded: Loaded) -> tuple[list[Opening], int]:
    """Read beginnings, and refuse what the model cannot go on with."""
    # It imports datasets, which only an extra brings.
    from offramp.training.sources import open_source  # noqa: PLC0415

    source = open_source(settings.data, split=settings.split, streaming=False)
    openings, short = openings_of(
        documents_of(source.rows("text")),
        loaded.tokenizer,
        words=settings.prompt_words or PROMPT_WORDS,
        new_tokens=_new_tokens(settings),
        limit=settings.limit,
    )
    for each in openings:
        tokens = loaded.tokenizer(each.prompt)["input_ids"]
        check_tokens(max(tokens), loaded)
        check_length(
            Prompt(content=each.prompt, place=each.place),
            len(tokens),
            loaded,
            max_new_tokens=_new_tokens(settings),
        )
    return openings, short


class _Texts:
    """What all ways write for all beginnings, in memory or in a file that is gone on with."""

    def __init__(
        self,
        settings: OpenEndedEvaluation,
        loaded: Loaded,
        openings: Sequence[Opening],
        continuers: Sequence[Continuer],
    ) -> None:
        self._settings, self._loaded = settings, loaded
        self._openings, self._continuers = openings, continuers

    def write(self) -> list[Way]:
        """Write what is missing, and give all."""
        settings, rows = self._settings, len(self._openings)
        kept = None
        if settings.output is not None:
            kept = Kept(
                path=settings.output,
                keys=self._keys(),
                line=self._line,
                read=_written,
                overwrite=settings.overwrite,
                silent=settings.json,
            )
        found = write_texts(self._work(), total=rows * len(self._continuers), kept=kept)
        return [
            Way(
                strategy=each.strategy.name,
                decoding=each.decoding,
                texts=tuple(found[number * rows + row] for row in range(rows)),
            )
            for number, each in enumerate(self._continuers)
        ]

    def _work(self) -> Iterator[Batch[Written]]:
        rows, size = len(self._openings), self._settings.batch_size
        for number, continuer in enumerate(self._continuers):
            for place, first in enumerate(range(0, rows, size)):
                batch = range(first, min(first + size, rows))
                yield Batch(
                    indices=tuple(number * rows + row for row in batch),
                    write=partial(
                        continuer.write,
                        [self._openings[row].prompt for row in batch],
                        batch=place,
                    ),
                )

    def _keys(self) -> list[str]:
        weights = weights_hash(self._loaded.model)
        keys = []
        for each in self._continuers:
            facts = {
                "model": self._loaded.name,
                "weights": weights,
                "strategy": each.strategy.name,
                "decoding": each.decoding,
                "max_new_tokens": _new_tokens(self._settings),
                "seed": self._settings.seed or 0 if each.strategy.samples else None,
                "batch_size": self._settings.batch_size if each.strategy.samples else None,
            }
            keys += [
                key_of([opening.prompt, opening.reference], facts) for opening in self._openings
            ]
        return keys

    def _line(self, index: int, text: Written) -> dict[str, Any]:
        number, row = divmod(index, len(self._openings))
        opening, continuer = self._openings[row], self._continuers[number]
        return {
            "model": self._loaded.name,
            "strategy": continuer.strategy.name,
            "decoding": continuer.decoding,
            "row": row,
            "place": opening.place,
            "prompt": opening.prompt,
            "text": text.text,
            "reference": opening.reference,
            "tokens": text.tokens,
            "finished": text.finished,
        }


def _written(told: Mapping[str, Any]) -> Written:
    """Read a text of an earlier run."""
    return Written(text=told["text"], tokens=tuple(told["tokens"]), finished=told["finished"])


def _embedder(settings: OpenEndedEvaluation) -> Embedder | None:
    if settings.embeddings == NO_EMBEDDINGS:
        return None
    return Embedder(settings.embeddings)


def _new_tokens(settings: OpenEndedEvaluation) -> int:
    return settings.max_new_tokens or NEW_TOKENS


def _check_once(names: Sequence[str], option: str) -> None:
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"{option} names {', '.join(names) or 'nothing'}; name each once")


def _show(
    report: OpenEndedReport, settings: OpenEndedEvaluation, loaded: Loaded, short: int
) -> None:
    facts = {
        "model": loaded.name,
        "data": settings.data,
        "split": settings.split,
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "prompt_words": settings.prompt_words or PROMPT_WORDS,
        "max_new_tokens": _new_tokens(settings),
        "passed_over": short,
        "sampling_seed": settings.seed or 0,
    }
    title = f"{loaded.name} on {settings.data}"
    if settings.json:
        show_json({**facts, **report.as_json()})
    else:
        show_ways(report, title=title, facts=facts)
    if settings.picture is not None:
        draw_open_ended(report, settings.picture, title=title)
