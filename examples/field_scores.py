"""Score texts that ``offramp evaluate --pairs --output`` wrote as papers on the task do.

    python examples/field_scores.py texts.jsonl

BLEU-1, -2 and -4 of the corpus by sacreBLEU on lower-cased tokens as they stand there, without
smoothing, brevity penalty included; Distinct-1 and -2 over all texts. Papers differ: some average
the BLEU of sentences, some smooth it, and such figures stand beside none of these. METEOR needs
WordNet and is not computed.
"""

import json
import sys
from pathlib import Path

from sacrebleu.metrics import BLEU


def distinct(texts: list[str], length: int) -> float:
    """Give the share of different n-grams among all, in percent."""
    rows = [text.split() for text in texts]
    grams = [tuple(row[at : at + length]) for row in rows for at in range(len(row) - length + 1)]
    return 100 * len(set(grams)) / len(grams) if grams else 0.0


def main() -> None:
    """Print one JSON object for each model in the file."""
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/field_scores.py texts.jsonl")
    rows = [json.loads(line) for line in Path(sys.argv[1]).read_text("utf-8").splitlines()]
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        texts = [row["text"].lower() for row in own]
        references = [[row["references"][0].lower() for row in own]]
        found = {"model": model, "rows": len(own)}
        for order in (1, 2, 4):
            bleu = BLEU(max_ngram_order=order, tokenize="none", smooth_method="none", force=True)
            found[f"bleu_{order}"] = round(bleu.corpus_score(texts, references).score, 2)
        for length in (1, 2):
            found[f"distinct_{length}"] = round(distinct(texts, length), 2)
        print(json.dumps(found))


if __name__ == "__main__":
    main()
