"""What tasks (b) and (c) have in common: splits, tokenizer and counts; and what copying scores.

In:  a key to split by and a row with source, target and group. Out: files and counts.
Law: the tokenizer sees nothing but the training side.
Not here: the tasks' texts (data_rewrite, data_synopsis); a model's scores (benchmarks).
"""

import re
from collections.abc import Iterable
from pathlib import Path

from data_files import SPLITS, DataError, Row, read_rows, say, write_splits
from data_tokenizers import byte_tokenizer, token_lengths

try:
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer
except ImportError:
    sacrebleu = RougeScorer = None

LEAD_WORDS = 8
SIDES = ("source", "target")


def write_pairs(folder: Path, pairs: Iterable[tuple[str, Row]], *, vocabulary: int) -> Row:
    """Write the splits, train and save the tokenizer, count."""
    counts = write_splits(folder, pairs)
    say(f"{counts} pairs; training a tokenizer of {vocabulary} tokens")
    parts = {split: read_rows(folder / f"{split}.jsonl") for split in SPLITS}
    train = parts["train"]
    texts = (str(row[side]) for row in train for side in SIDES)
    tokenizer = byte_tokenizer(texts, size=vocabulary)
    tokenizer.save_pretrained(folder / "tokenizer")
    return {
        "lines": counts,
        "groups": {split: len({row["group"] for row in parts[split]}) for split in SPLITS},
        "mean_words": {
            side: round(sum(len(str(row[side]).split()) for row in train) / len(train), 2)
            for side in SIDES
        },
        "vocabulary": len(tokenizer),
        "tokens": {
            split: {
                side: token_lengths(tokenizer, [str(row[side]) for row in parts[split]])
                for side in SIDES
            }
            for split in SPLITS
        },
    }


def scorers_needed() -> None:
    """Say what to install where the scores cannot be computed.

    Raises:
        DataError: sacrebleu or rouge-score is missing.
    """
    if sacrebleu is None:
        raise DataError("the baselines need sacrebleu and rouge-score: pip install 'offramp[eval]'")


def copied_bleu(rows: list[Row]) -> float:
    """Score the sources as they are against the targets: corpus BLEU of sacreBLEU, 0 to 100."""
    scorers_needed()
    sources, targets = ([str(row[side]) for row in rows] for side in SIDES)
    return round(sacrebleu.corpus_bleu(sources, [targets]).score, 2)


def lead_rouge(rows: list[Row], *, words: int = LEAD_WORDS) -> float:
    """Score the first words of the sources: mean F1 of ROUGE-L, stemmed, 0 to 100."""
    scorers_needed()
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    scores = [
        scorer.score(str(row["target"]), " ".join(str(row["source"]).split()[:words]))
        for row in rows
    ]
    return round(100 * sum(score["rougeL"].fmeasure for score in scores) / len(scores), 2)


def one_line(text: str) -> str:
    r"""Write a text with single spaces.

    Example:
        >>> one_line(" two\n words ")
        'two words'
    """
    return re.sub(r"\s+", " ", text).strip()
