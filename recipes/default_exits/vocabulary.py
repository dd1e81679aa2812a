r"""Count the tokens that the embedded default writes, most frequent first, for cheap draft heads.

python recipes/default_exits/vocabulary.py --self self1.jsonl self2.jsonl --held-out \
        held-out/greedy.jsonl --output src/offramp/models/default_exits/token_counts.safetensors
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file


def completions(path: Path) -> Iterator[list[int]]:
    """Give the tokens that the model wrote, text by text."""
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "completion" in row:
            yield row["completion"]


def main() -> None:
    """Count, say how much of a held-out text the most frequent tokens cover, and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--self", nargs="+", required=True, dest="self_text", type=Path)
    parser.add_argument("--held-out", required=True, type=Path)
    parser.add_argument("--output", required=True, type=Path)
    plan = parser.parse_args()
    counts = Counter(token for path in plan.self_text for row in completions(path) for token in row)
    ranked = sorted(counts, key=lambda token: (-counts[token], token))
    held_out = [token for row in completions(plan.held_out) for token in row]
    for size in (1024, 2048, 4096, 8192, len(ranked)):
        kept = set(ranked[:size])
        share = sum(token in kept for token in held_out) / len(held_out)
        print(f"the {len(kept)} most frequent tokens cover {share:.4f} of the held-out text")
    save_file(
        {
            "tokens": torch.tensor(ranked, dtype=torch.int32),
            "counts": torch.tensor([counts[token] for token in ranked], dtype=torch.int32),
        },
        plan.output,
    )


if __name__ == "__main__":
    main()
