"""Let the embedded default answer questions greedily, in float32, to calibrate early exit on.

python recipes/default_exits/new_answers.py new-questions.txt new-answers.jsonl
"""

import json
import sys
from pathlib import Path

import torch

import offramp
from offramp.training.self_text import opened

BATCH, NEW = 32, 128


def main() -> None:
    """Write prompt and completion of each question, as tokens."""
    model, tokenizer = offramp.load_default()
    ends = {model.generation_config.eos_token_id}
    asked = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
    starts = [opened(tokenizer, question) for question in asked]
    with Path(sys.argv[2]).open("w", encoding="utf-8") as file:
        for first in range(0, len(starts), BATCH):
            part = starts[first : first + BATCH]
            inputs = tokenizer.pad({"input_ids": part}, padding_side="left", return_tensors="pt")
            with torch.no_grad():
                made = model.generate(
                    **inputs,
                    max_new_tokens=NEW,
                    do_sample=False,
                    pad_token_id=tokenizer.pad_token_id,
                )
            width = inputs["input_ids"].shape[1]
            for start, row in zip(part, made[:, width:].tolist(), strict=True):
                end = next((n for n, token in enumerate(row) if token in ends), len(row) - 1)
                file.write(json.dumps({"prompt": start, "completion": row[: end + 1]}) + "\n")
            print(first + len(part), flush=True)


if __name__ == "__main__":
    main()
