"""What other projects offer to write the same text sooner, as benchmarks/speed.py calls it.

In:  the default model. Out: calls by variant, all on its weights. transformers is always there;
     economize 0.3.2 and onnxruntime-genai are skipped, with a reason, where they are not installed:

    pip install economize==0.3.2 onnxruntime-genai onnx onnx_ir
"""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from offramp.models.default import ensure_default

Calls = dict[str, Callable[[Any, int], Any]]


class Skipped(Exception):  # noqa: N818 - nothing went wrong
    """A method cannot run here; says why."""


def twin(model: Any) -> Any:
    """Give transformers' own model, without exits, that holds the very same weights."""
    plain = AutoModelForCausalLM.from_pretrained(ensure_default(), dtype=torch.float32).eval()
    for name, parameter in plain.named_parameters():
        parameter.data = model.get_parameter(name).data
    return plain


def by_transformers(model: Any, options: dict[str, dict[str, int]]) -> Calls:
    """Call transformers with some options, on a model of their own: drafting changes settings."""
    plain = twin(model)

    def made(some: dict[str, int]) -> Callable[[Any, int], Any]:
        def call(inputs: Any, tokens: int) -> Any:
            if len(inputs["input_ids"]) > 1:
                raise Skipped("transformers drafts for one text at a time")
            return plain.generate(**inputs, max_new_tokens=tokens, do_sample=False, **some)

        return call

    return {name: made(some) for name, some in options.items()}


def looked_up(model: Any, **_: Any) -> Calls:
    """Copy drafts from the text itself."""
    return by_transformers(
        model, {f"{count}": {"prompt_lookup_num_tokens": count} for count in (3, 2, 5, 10)}
    )


def assisted(model: Any, **_: Any) -> Calls:
    """Draft with an early exit, by transformers."""
    return by_transformers(
        model, {f"exit {exit}": {"assistant_early_exit": exit} for exit in (6, 3, 12, 20)}
    )


def economize(model: Any, **_: Any) -> Calls:
    """Draft with an early exit, by economize; its exits share the base's head, untrained."""
    try:
        library = import_module("economize")
        exits = import_module("economize.techniques.early_exit")
    except ImportError:
        raise Skipped("economize is not installed") from None
    made = drafted(library, exits, twin(model))
    return {
        f"exit {exit}, cycle {length}, {sure}": made(exit, length, sure)
        for exit, length, sure in ((6, 2, None), (6, 4, 0.5), (12, 3, 0.5), (20, 3, 0.5))
    }


def drafted(library: Any, exits: Any, plain: Any) -> Callable[..., Callable[[Any, int], Any]]:
    """Make a call of economize's decoding."""

    def made(exit: int, length: int, sure: float | None) -> Callable[[Any, int], Any]:
        fast = library.apply(
            plain,
            exits.EarlyExitConfig(exit_layer=exit, head="shared"),
            decoding=library.DecodeConfig(cycle_length=length, min_confidence=sure),
        )

        def call(inputs: Any, tokens: int) -> Any:
            return fast.generate(
                inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=tokens,
                do_sample=False,
            )

        return call

    return made


def genai(model: Any, *, threads: int, scratch: Path) -> Calls:
    """Run the weights in ONNX Runtime GenAI, in float32; its model folder is made once."""
    try:
        library = import_module("onnxruntime_genai")
    except ImportError:
        raise Skipped("onnxruntime-genai is not installed") from None
    folder = built(scratch / "genai")
    config = library.Config(str(folder))
    options = {"intra_op_num_threads": threads, "inter_op_num_threads": 1}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
    engine = library.Model(config)
    end = model.config.eos_token_id

    def call(inputs: Any, tokens: int) -> Any:
        ids = inputs["input_ids"]
        for row, mask in enumerate(inputs["attention_mask"]):  # its padding goes to the right
            ids = ids if mask.all() else rolled(ids, row, mask)
        asked = library.GeneratorParams(engine)
        most = ids.shape[1] + tokens
        asked.set_search_options(max_length=most, do_sample=False, batch_size=len(ids))
        writer = library.Generator(engine, asked)
        writer.append_tokens(ids.numpy().astype("int32"))
        while not writer.is_done():
            writer.generate_next_token()
        rows = [writer.get_sequence(row).tolist() for row in range(len(ids))]
        # the end token of a single text is written, but not given back
        return [row if len(row) == most else [*row, end] for row in rows]

    return {"float32": call}


def rolled(ids: torch.Tensor, row: int, mask: torch.Tensor) -> torch.Tensor:
    """Move the padding of one row from the left to the right."""
    ids = ids.clone()
    ids[row] = ids[row].roll(-int((mask == 0).sum()))
    return ids


def built(folder: Path) -> Path:
    """Make the folder that onnxruntime-genai reads, by its own builder, from the same weights."""
    if (folder / "genai_config.json").exists():
        return folder
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", "default"]
    command += ["-i", str(ensure_default()), "-o", str(folder), "-p", "fp32", "-e", "cpu"]
    command += ["-c", str(folder.parent / "genai-cache")]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise Skipped(f"the model builder failed: {made.stderr.strip().splitlines()[-1]}")
    return folder
