"""ROUGE, BLEU and chrF are those of their packages."""

import sys
from importlib.machinery import PathFinder

import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from offramp.errors import ConfigError
from offramp.evaluation.overlap import bleu, chrf, quotient, rouge
from offramp.evaluation.resampling import Draws, scores_of, value_of

TEXTS = ["the cat sat on the mat.", "A dog, running fast", "", "ferries carry cars\nacross water"]
REFERENCES = [
    ["The cat sat on a mat.", "a cat was sitting on the mat"],
    ["The dogs run fast."],
    ["Nothing at all", "nothing"],
    ["A ferry carries cars\nacross the water"],
]
STREAMS = [
    [row[0] for row in REFERENCES],
    [row[1] if len(row) > 1 else None for row in REFERENCES],
]


@pytest.mark.parametrize("stemmer", [True, False])
def test_rouge_is_the_mean_of_the_package(stemmer):
    names = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = RougeScorer(names, use_stemmer=stemmer)
    each = [scorer.score_multi(right, text) for text, right in zip(TEXTS, REFERENCES, strict=True)]

    found = rouge(TEXTS, REFERENCES, stemmer=stemmer)

    assert [measure.name for measure in found] == names
    for measure in found:
        mean = sum(row[measure.name].fmeasure for row in each) / len(each)
        assert value_of(measure) == pytest.approx(100 * mean)
        assert f"stemmer {'on' if stemmer else 'off'}" in measure.flavour
        assert measure.flavour.startswith("rouge-score 0.")


@pytest.mark.parametrize("tokenizer", ["13a", "none", "char"])
@pytest.mark.parametrize("lowercase", [True, False])
def test_bleu_and_its_signature_are_sacrebleus(tokenizer, lowercase):
    theirs = BLEU(tokenize=tokenizer, lowercase=lowercase)
    score = theirs.corpus_score(TEXTS, STREAMS).score

    ours = bleu(TEXTS, REFERENCES, tokenizer=tokenizer, lowercase=lowercase)

    assert value_of(ours) == pytest.approx(score)
    assert ours.flavour == theirs.get_signature().format()
    assert f"tok:{tokenizer}" in ours.flavour


def test_chrf_and_its_signature_are_sacrebleus():
    theirs = CHRF()
    score = theirs.corpus_score(TEXTS, STREAMS).score

    ours = chrf(TEXTS, REFERENCES)

    assert value_of(ours) == pytest.approx(score)
    assert ours.flavour == theirs.get_signature().format()


def test_drawn_rows_have_the_score_of_a_file_of_them():
    rows = [0, 0, 3, 1]
    ours = bleu(TEXTS, REFERENCES)

    drawn = float(ours.combine(ours.rows[rows].sum(0, keepdim=True))[0])

    theirs = BLEU().corpus_score(
        [TEXTS[row] for row in rows], [[stream[row] for row in rows] for stream in STREAMS]
    )
    assert drawn == pytest.approx(theirs.score)


def test_the_interval_of_bleu_is_near_that_of_sacrebleu():
    texts, right = TEXTS * 20, [[row[0]] for row in REFERENCES] * 20
    theirs = BLEU().corpus_score(texts, [STREAMS[0] * 20], n_bootstrap=1000)

    (ours,) = scores_of([bleu(texts, right)], Draws())

    assert ours.value == pytest.approx(theirs.score)
    assert (ours.high - ours.low) / 2 == pytest.approx(theirs._ci, rel=0.15)


def test_texts_of_nothing_score_nothing():
    assert value_of(bleu(["", ""], [["a b"], ["c"]])) == 0
    assert value_of(chrf(["", ""], [["a b"], ["c"]])) == 0
    assert value_of(rouge([""], [["a b"]], stemmer=True)[0]) == 0
    assert quotient(torch.zeros(1, 2, dtype=torch.float64)).tolist() == [0.0]


def test_a_script_that_the_package_drops_is_refused():
    with pytest.raises(ConfigError, match="leave rouge out and use chrf"):
        rouge(["кот"], [["кот сидит"]], stemmer=False)

    assert value_of(rouge(["für"], [["für dich"]], stemmer=False)[0]) > 0


def test_what_is_unknown_or_missing_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match="must be one of 13a, intl, char, zh, none, got 'moses'"):
        bleu(TEXTS, REFERENCES, tokenizer="moses")
    for name in ("rouge_score", "sacrebleu"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(PathFinder, "find_spec", lambda *_, **__: None)
    with pytest.raises(ConfigError, match=r"pip install 'offramp\[eval\]'"):
        rouge(TEXTS, REFERENCES, stemmer=True)
    with pytest.raises(ConfigError, match="needs sacrebleu"):
        chrf(TEXTS, REFERENCES)
