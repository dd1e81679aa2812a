"""Generate and put each result where it belongs.

In:  checked settings, prompts and a display. Out: text or JSON on stdout, or lines of a file.
Law: after an interruption the output file holds whole lines only, and the same command goes on
     from there (tests/cli/test_killed.py).
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from offramp.cli.output import Interrupted, ResultFile, key_of
from offramp.cli.prompts import Prompt
from offramp.cli.quiet import memory_named, quiet
from offramp.cli.seq2seq_answers import AnyAnswers, answers_of
from offramp.cli.settings import Display, Settings
from offramp.cli.show import progress, remark, show_json, show_text


def run(settings: Settings, prompts: Sequence[Prompt], display: Display) -> None:
    """Answer all prompts.

    Raises:
        OfframpError: Something was asked for that cannot be done.
        Interrupted: Ctrl-C, with an output file to go on from.
    """
    memory = memory_named(device=settings.device, batch_size=settings.batch_size)
    with quiet(verbose=display.verbose), memory:
        _run(answers_of(settings, prompts), prompts, display)


def _run(answers: AnyAnswers, prompts: Sequence[Prompt], display: Display) -> None:
    if display.stream:
        answers.stream()
    elif display.output is not None:
        _to_file(answers, prompts, display, display.output)
    else:
        _to_stdout(answers, count=len(prompts), as_json=display.json)


def _to_stdout(answers: AnyAnswers, *, count: int, as_json: bool) -> None:
    with progress(count) as advance:
        for batch in answers.batches():
            for index, result in zip(batch, answers.answer(batch), strict=True):
                if as_json:
                    show_json({"index": index, **asdict(result)})
                else:
                    show_text(result.text if index == 0 else f"\n{result.text}")
            advance(len(batch))


def _to_file(answers: AnyAnswers, prompts: Sequence[Prompt], display: Display, path: Path) -> None:
    facts = answers.facts()
    keys = [key_of(prompt.content, facts) for prompt in prompts]
    with ResultFile(path, keys, overwrite=display.overwrite) as file:
        before = len(file.finished)
        try:
            with progress(len(prompts), done=before) as advance:
                for batch in answers.batches():
                    missing = [index for index in batch if index not in file.finished]
                    if not missing:
                        continue
                    results = dict(zip(batch, answers.answer(batch), strict=True))
                    file.append({index: asdict(results[index]) for index in missing})
                    advance(len(missing))
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted: {len(file.finished)} of {len(prompts)} results are in {path}; the "
                "same command goes on from there"
            ) from None
    _summarise(path, total=len(prompts), new=len(prompts) - before, as_json=display.json)


def _summarise(path: Path, *, total: int, new: int, as_json: bool) -> None:
    if as_json:
        show_json({"output": str(path), "results": total, "new": new})
    else:
        remark(f"{total} results in {path}, {new} of them new")
