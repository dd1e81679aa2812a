"""Run ``offramp distill-data``: a teacher's text for every source, in a file to train on.

In:  checked options. Out: JSON lines with the teacher's texts as targets, and a remark or JSON.
Law: what can be refused is refused before the first text is written; killed at any moment the file
     holds whole lines, and the same command ends with the lines of a run that was never disturbed
     (tests/cli/test_distill.py).
Not here: writing texts (offramp.evaluation.seq2seq), training on them (offramp.cli.finetune).
Source: Kim and Rush 2016, "Sequence-Level Knowledge Distillation", arXiv:1606.07947.
"""

import json
from collections.abc import Sequence
from typing import Any

from offramp.cli.distill import BEAMS, Distillation
from offramp.cli.loading import weights_hash
from offramp.cli.output import Interrupted, ResultFile, key_of
from offramp.cli.quiet import memory_named, quiet
from offramp.cli.seq2seq_loading import find_source, one_shot_of
from offramp.cli.seq2seq_settings import refuse
from offramp.cli.show import progress, remark, show_json
from offramp.evaluation.pairs import Pair, read_pairs
from offramp.evaluation.seq2seq import Writer, WriteSettings, Written


def distil(asked: Distillation) -> None:
    """Write what is missing, and say what there is.

    Raises:
        OfframpError: Something was asked for that cannot be done.
        Interrupted: Ctrl-C; the file holds what is whole.
    """
    pairs = read_pairs(asked.pairs, limit=asked.limit)
    memory = memory_named(device=asked.device, batch_size=asked.batch_size)
    with quiet(verbose=asked.verbose), memory:
        writer = _teacher(asked)
        new = _write(asked, writer, pairs)
        _show(asked, writer.decoding(), pairs=len(pairs), new=new)


def _teacher(asked: Distillation) -> Writer:
    """Load the teacher, once it is known that every option means something to it."""
    source, ngram = find_source(asked.model), asked.no_repeat_ngram_size
    more: dict[str, Any] = {}
    if source.one_pass:
        refuse(asked.only_in_steps, "means nothing to an ELMER model, which writes at once")
        more["decoding"] = one_shot_of({}, early_exit=None, no_repeat_ngram=ngram)
    else:
        generation = {
            "num_beams": asked.beams or BEAMS,
            "length_penalty": asked.length_penalty,
            "no_repeat_ngram_size": ngram,
        }
        more["generation"] = {k: value for k, value in generation.items() if value is not None}
    how = WriteSettings(
        batch_size=asked.batch_size,
        max_new_tokens=asked.max_new_tokens,
        max_source_tokens=asked.max_source_tokens,
        **more,
    )
    return source.load(how, dtype=asked.dtype, device=asked.device)


def _write(asked: Distillation, writer: Writer, pairs: Sequence[Pair]) -> int:
    """Write each batch of which a line is missing; an empty text leaves none.

    Returns:
        How many lines are new.
    """
    sources = [each.source for each in pairs]
    batches = writer.batches(sources, places=[each.place for each in pairs])
    with ResultFile(asked.output, _keys(asked, writer, pairs), overwrite=asked.overwrite) as file:
        before = len(file.finished)
        try:
            with progress(len(pairs), done=before, unit="texts") as advance:
                for batch in batches:
                    missing = [row for row in batch if row not in file.finished]
                    if not missing:
                        continue
                    made = writer.write([sources[row] for row in batch])
                    texts = dict(zip(batch, made, strict=True))
                    kept = [row for row in missing if texts[row].text.strip()]
                    file.append({row: _line(pairs[row], texts[row]) for row in kept})
                    advance(len(missing))
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted: {len(file.finished)} of {len(pairs)} texts are in {asked.output}; "
                "the same command goes on from there"
            ) from None
        return len(file.finished) - before


def _keys(asked: Distillation, writer: Writer, pairs: Sequence[Pair]) -> list[str]:
    facts = {
        "model": asked.model,
        "weights": weights_hash(writer.model),
        "decoding": writer.decoding(),
        "max_new_tokens": asked.max_new_tokens,
        "max_source_tokens": asked.max_source_tokens,
    }
    return [key_of([each.source, each.references[0]], facts) for each in pairs]


def _line(pair: Pair, text: Written) -> dict[str, object]:
    return {
        "source": pair.source,
        "target": text.text,
        "reference": pair.references[0],
        "finished": text.finished,
    }


def _show(asked: Distillation, decoding: str, *, pairs: int, new: int) -> None:
    with asked.output.open("rb") as lines:
        finished = [json.loads(line)["finished"] for line in lines]
    result = {
        "output": str(asked.output),
        "teacher": asked.model,
        "decoding": decoding,
        "pairs": pairs,
        "written": len(finished),
        "new": new,
        "empty": pairs - len(finished),
        "unfinished": finished.count(False),
    }
    if asked.json:
        show_json(result)
        return
    remark(f"{len(finished)} pairs in {asked.output}, {new} of them new, by {decoding}")
    if result["empty"]:
        remark(f"{result['empty']} of {pairs} sources are left out: the teacher wrote nothing")
    if result["unfinished"]:
        remark(f"{result['unfinished']} texts are cut off; a higher --max-new-tokens may end them")
