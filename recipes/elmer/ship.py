"""Put a trained model into the package, in bfloat16.

In:  a folder that recipes/elmer/train.py left. Out: a folder that ``offramp.load_elmer`` reads.

Example:
    python recipes/elmer/ship.py --model RUNS/g2p-ctc-0/best --name elmer-g2p
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoTokenizer

from offramp.models.elmer import ElmerForConditionalGeneration
from offramp.models.shipped import SHIPPED

LARGEST = 12_000_000
"""Bytes that a model which ships may have."""


def main() -> None:
    """Convert and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--name", required=True)
    asked = parser.parse_args()
    folder = SHIPPED / asked.name
    model = ElmerForConditionalGeneration.from_pretrained(asked.model, dtype=torch.bfloat16)
    model.config.glancing = 0.0
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(asked.model).save_pretrained(folder)
    size = sum(each.stat().st_size for each in folder.iterdir())
    if size > LARGEST:
        raise SystemExit(f"{folder} has {size} bytes; at most {LARGEST} ship")
    print(f"{folder}: {size} bytes")


if __name__ == "__main__":
    main()
