"""Make JSON lines of two files of lines, such as GLGE ships.

python examples/pairs.py train.src train.tgt train.jsonl
"""

import json
import sys
from pathlib import Path


def main() -> None:
    """Write a line for each pair."""
    if len(sys.argv) != 4:
        sys.exit("usage: python examples/pairs.py SOURCES TARGETS OUTPUT")
    sources, targets = (
        Path(name).read_text(encoding="utf-8").removesuffix("\n").split("\n")
        for name in sys.argv[1:3]
    )
    if len(sources) != len(targets):
        sys.exit(f"{sys.argv[1]} has {len(sources)} lines, {sys.argv[2]} {len(targets)}")
    with Path(sys.argv[3]).open("w", encoding="utf-8") as file:
        for source, target in zip(sources, targets, strict=True):
            pair = {"source": source.strip(), "target": target.strip()}
            file.write(json.dumps(pair, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
