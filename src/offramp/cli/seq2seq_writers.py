"""Load the models that ``offramp evaluate --pairs`` compares.

In:  checked settings. Out: a writer for each model, by name.
Law: an option that means nothing to any of the models is refused before one is loaded
     (tests/cli/test_seq2seq.py).
Not here: what they write (offramp.cli.seq2seq_measure), one model (offramp.cli.seq2seq_loading).
"""

from collections.abc import Sequence
from typing import Any

from offramp.cli.seq2seq_loading import Source, find_source, one_shot_of
from offramp.cli.seq2seq_settings import PairsEvaluation, refuse
from offramp.evaluation.seq2seq import Writer, WriteSettings


def load_writers(settings: PairsEvaluation) -> dict[str, Writer]:
    """Load the models, once it is known that every option means something to one of them."""
    sources = [find_source(name) for name in settings.model]
    if not any(each.one_pass for each in sources):
        refuse(settings.only_in_one_pass, "is for ELMER models; name one by --model")
    if all(each.one_pass for each in sources):
        refuse(settings.only_in_steps, "means nothing to ELMER models, which write at once")
    how = _write_settings(settings, sources)
    return {
        each.name: each.load(how, dtype=settings.dtype, device=settings.device) for each in sources
    }


def _write_settings(settings: PairsEvaluation, sources: Sequence[Source]) -> WriteSettings:
    ngram = settings.no_repeat_ngram_size
    generation = {**settings.only_in_steps, "no_repeat_ngram_size": ngram}
    one_pass = any(each.one_pass for each in sources)
    more: dict[str, Any] = {}
    if one_pass:
        more["decoding"] = one_shot_of(
            settings.one_pass.given, early_exit=settings.early_exit, no_repeat_ngram=ngram
        )
    return WriteSettings(
        batch_size=settings.batch_size,
        max_new_tokens=settings.max_new_tokens,
        max_source_tokens=settings.max_source_tokens,
        generation={name: value for name, value in generation.items() if value is not None},
        **more,
    )
