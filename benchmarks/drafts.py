"""Count which drafts of the default model are right, by what drafts, with which vocabulary.

    python benchmarks/drafts.py --output benchmarks/results/drafts.json

Greedy, float32, the first prompts of each kind of benchmarks/speed_prompts.json. Only counts, no
times: for each way the share of drafted tokens that were right, the tokens that a checked step
writes, and the bytes of weights that are read for one drafted token as a share of those that a step
of the whole model reads. On a machine that waits for memory a way gains if
tokens a step / (1 + drafted a step * share of bytes) is above 1 and rows of a step are free.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from speed_ways import DRAFT_VOCABULARY, KINDS, encoded, prompts_of, text_of

import offramp
from offramp import SelfSpeculation
from offramp.models.embedded import default_token_counts

SIZES = (1024, 2048, 4096, 8192, 16384, 49152)
EXITS = (4, 12, 20, 28)
LENGTHS: tuple[Any, ...] = (1, "auto")
NEW = 64


def prompts(tokenizer: Any, each_kind: int) -> list[Any]:
    """Encode the first prompts of each kind."""
    every = prompts_of(30)
    chosen = [[each for each in every if each["kind"] == kind][:each_kind] for kind in KINDS]
    return [encoded(tokenizer, [text_of(tokenizer, one)]) for some in chosen for one in some]


def ways(frequent: list[int]) -> Iterator[tuple[dict[str, Any], Any]]:
    """Give what drafts and the decoding, the trained drafter first."""
    for size in SIZES:
        for length in LENGTHS:
            facts = {"by": "drafter", "vocabulary": size, "length": length}
            yield facts, SelfSpeculation(draft_length=length)
    for exit in EXITS:
        for length in LENGTHS:
            facts = {"by": f"exit {exit}", "vocabulary": DRAFT_VOCABULARY, "length": length}
            some = tuple(frequent[:DRAFT_VOCABULARY])
            yield (
                facts,
                SelfSpeculation(draft_exit=exit, draft_length=length, draft_vocabulary=some),
            )


def bytes_of(model: Any, facts: dict[str, Any]) -> float:
    """Give the weights that one drafted token reads, as a share of a step's."""
    head = model.get_output_embeddings().weight
    blocks = [sum(each.numel() for each in block.parameters()) for block in model.model.layers]
    whole = sum(blocks) + head.numel()
    rows = facts["vocabulary"] * head.shape[1]
    if facts["by"] == "drafter":
        drafter = sum(each.numel() for each in model.drafter.parameters())
        return float((drafter + rows) / whole)
    exit = int(facts["by"].split()[1])  # each drafted token goes through its blocks on its own
    own = sum(each.numel() for each in model.exits[str(exit)].parameters())
    return float((sum(blocks[:exit]) + own + rows) / whole)


def main() -> None:
    """Write every way's texts and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--each", type=int, default=2, help="prompts of each kind (default 2)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True)
    plan = parser.parse_args()
    torch.set_num_threads(plan.threads)
    model, tokenizer = offramp.load_default()
    frequent = default_token_counts()[0]
    asked, found = prompts(tokenizer, plan.each), []
    for facts, decoding in ways(frequent.tolist()):
        if facts["by"] == "drafter":  # what it guesses is a state, so any tokens may be scored
            size = facts["vocabulary"]
            whole = size > len(frequent)
            model.drafter.tokens = torch.arange(size) if whole else frequent[:size].clone()
        new = drafted = accepted = 0
        for inputs in asked:
            out = model.generate(
                **inputs,
                decoding=decoding,
                max_new_tokens=NEW,
                do_sample=False,
                return_dict_in_generate=True,
            )
            new += out.exits.shape[1]
            drafted += int(out.drafted)
            accepted += int(out.accepted)
        steps = new - accepted
        found.append(
            facts
            | {
                "right": accepted / max(drafted, 1),
                "tokens_a_step": new / steps,
                "drafted_a_step": drafted / steps,
                "bytes_of_a_draft": bytes_of(model, facts),
                "tokens": new,
            }
        )
        print(json.dumps(found[-1]), flush=True)
        plan.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
