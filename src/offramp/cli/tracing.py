"""Load a model, trace a text, and show what was found.

In:  checked options. Out: a table or JSON on stdout, or a file.
Law: the trace is the library's own; what can be refused is refused before the model is run
     (tests/cli/test_trace.py).
Not here: tracing (offramp.trace), the options (offramp.cli.trace).
"""

from dataclasses import replace
from typing import Any

import torch

from offramp.cli.encoding import encode
from offramp.cli.loading import Loaded, load
from offramp.cli.prompts import Prompt
from offramp.cli.quiet import memory_named, quiet
from offramp.cli.rule import read_rule
from offramp.cli.seq2seq_loading import find_source, is_elmer, one_shot_of
from offramp.cli.seq2seq_settings import refuse
from offramp.cli.settings import Settings
from offramp.cli.show import remark, show_json, show_text
from offramp.cli.table import console_of
from offramp.cli.trace import Tracing
from offramp.config import parse_exits
from offramp.decoding.protocol import DecodingRule
from offramp.errors import InputError
from offramp.evaluation.seq2seq import WriteSettings
from offramp.models.multiexit import check_rule
from offramp.trace import figures
from offramp.trace.record import Trace
from offramp.trace.sight import check_measure
from offramp.trace.wording import printable

MOST_SHOWN = 64
"""Positions of a table, unless more are asked for."""

WRITTEN = 32
"""Tokens that an encoder-decoder writes, unless another number is asked for."""


def run_trace(tracing: Tracing) -> None:
    """Trace and show.

    Raises:
        OfframpError: Something was asked for that cannot be done.
    """
    check_measure(tracing.measure)
    if tracing.output is not None and tracing.output.suffix.lower() in figures.FORMATS:
        figures.check_figures()
    settings = tracing.settings
    memory = memory_named(device=settings.device, batch_size=settings.batch_size)
    with quiet(verbose=tracing.verbose), memory:
        trace = _found(tracing)
        if tracing.output is not None:
            trace.save(tracing.output)
    _show(trace, tracing)


def _found(tracing: Tracing) -> Trace:
    """Read or make the trace."""
    if tracing.load is not None:
        found = Trace.load(tracing.load)
        return found if tracing.window is None else _windowed(found, tracing.window)
    if is_elmer(tracing.settings.model):
        return _of_canvas(tracing)
    return _of_text(tracing)


def _windowed(trace: Trace, window: slice) -> Trace:
    """Keep those positions of a saved trace that lie in a window of the text.

    Raises:
        InputError: There are none.
    """
    wanted = range(*window.indices(trace.length))
    kept = tuple(each for each in trace.positions if each.index in wanted)
    if not kept:
        raise InputError(
            f"the saved trace has no position from {wanted.start} to {wanted.stop} of "
            f"{trace.length}; leave out --window for all that it has"
        )
    return replace(trace, positions=kept)


def _of_text(tracing: Tracing) -> Trace:
    settings = tracing.settings
    given = {"early_exit": settings.early_exit, **settings.one_pass.given}
    refuse(given, "is for ELMER models here; name one by --model, or leave it out")
    rule, _ = read_rule(settings)
    exits = None if tracing.exits is None else parse_exits(tracing.exits)
    loaded = load(
        settings.model, dtype=settings.dtype, device=settings.device, exits=settings.exits_from
    )
    loaded.model.check_exits(exits or (), attached_only=False)
    if rule is not None:
        check_rule(loaded.model, rule)
    ids, more = _tokens(tracing, loaded, rule)
    length = len(more["decoder_input_ids"][0]) if more else len(ids)
    found: Trace = loaded.model.trace(
        ids,
        tokenizer=loaded.tokenizer,
        exits=exits,
        top=tracing.top,
        positions=_positions(tracing, length),
        decoding=rule,
        **more,
    )
    return replace(found, model=loaded.name)


def _tokens(
    tracing: Tracing, loaded: Loaded, rule: DecodingRule | None
) -> tuple[list[int], dict[str, Any]]:
    """Give the tokens of the text, with what the model goes on with if that was asked for."""
    prompt = Prompt(content=str(tracing.text), place="the text")
    apart = bool(loaded.model.config.is_encoder_decoder)
    new = tracing.max_new_tokens or (WRITTEN if apart else 0)
    settings: Settings = replace(tracing.settings, max_new_tokens=new)
    ids = encode(prompt, loaded, settings)
    if not new:
        return ids, {}
    rows = torch.tensor([ids], device=loaded.model.device)
    written = loaded.model.generate(
        rows,
        attention_mask=torch.ones_like(rows),
        decoding=rule,
        max_new_tokens=new,
        do_sample=False,
        num_beams=1,
        pad_token_id=loaded.tokenizer.pad_token_id,
    )
    if apart:
        return ids, {"decoder_input_ids": written}
    return written[0].tolist(), {}


def _of_canvas(tracing: Tracing) -> Trace:
    settings = tracing.settings
    others = ("exits_from", "contrast", "exit", "dola", "system")
    given = {name: getattr(settings, name) for name in others} | {"chat": settings.chat or None}
    refuse(given, "means nothing to an ELMER model, which writes at once; leave it out")
    decoding = one_shot_of(
        settings.one_pass.given, early_exit=settings.early_exit, no_repeat_ngram=None
    )
    writer = find_source(str(settings.model)).load(
        WriteSettings(max_new_tokens=tracing.max_new_tokens, decoding=decoding),
        dtype=settings.dtype,
        device=settings.device,
    )
    more = {} if tracing.max_new_tokens is None else {"max_new_tokens": tracing.max_new_tokens}
    found: Trace = writer.model.trace(
        tracing.text,
        tokenizer=writer.tokenizer,
        exits=None if tracing.exits is None else parse_exits(tracing.exits),
        top=tracing.top,
        positions=tracing.window or 0,
        decoding=decoding,
        **more,
    )
    return replace(found, model=str(settings.model))


def _positions(tracing: Tracing, length: int) -> slice | int:
    """Give the window, or the last positions that a table has room for."""
    if tracing.window is not None:
        return tracing.window
    if tracing.json or tracing.output is not None or length <= MOST_SHOWN:
        return 0
    remark(f"the last {MOST_SHOWN} of {length} positions; --window 0: shows all")
    return MOST_SHOWN


def _show(trace: Trace, tracing: Tracing) -> None:
    if tracing.output is not None:
        facts = {"output": str(tracing.output), "positions": len(trace.positions)}
        if tracing.json:
            show_json({**facts, "exits": [each.exit for each in trace.exits]})
        else:
            remark(
                f"{facts['positions']} positions by {len(trace.exits)} exits in {tracing.output}"
            )
        return
    if tracing.json:
        show_json(trace.to_dict())
        return
    name = trace.model or "a model"
    rule = "" if trace.decoding is None else f", {trace.decoding}"
    show_text(printable(f"{name}: {len(trace.positions)} of {trace.length} positions{rule}"))
    console_of().print(trace.table(measure=tracing.measure))
