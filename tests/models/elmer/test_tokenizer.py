"""``ElmerTokenizer`` reads a folder as BART's tokenizer does: the same pieces, frame and mask."""

import json

import pytest
from transformers import AutoTokenizer, BartTokenizer

from offramp import ElmerTokenizer

PIECES = [
    "<s>",
    "<pad>",
    "</s>",
    "<unk>",
    *"aefrty",
    "Ġ",
    "fe",
    "rr",
    "ferr",
    "ferry",
    "Ġa",
    "<mask>",
]
MERGES = ["f e", "r r", "fe rr", "ferr y", "Ġ a"]
IDS = {piece: number for number, piece in enumerate(PIECES)}


@pytest.fixture
def folder(tmp_path):
    """A vocabulary as BART's is published: two files of a byte-level BPE."""
    (tmp_path / "vocab.json").write_text(json.dumps(IDS), "utf-8")
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]), "utf-8")
    return tmp_path


def test_a_text_becomes_the_pieces_of_its_bpe_between_begin_and_end(folder):
    tokenizer = ElmerTokenizer.from_pretrained(folder)

    ids = tokenizer("ferry a<mask>")["input_ids"]

    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", "ferry", "Ġa", "<mask>", "</s>"]
    assert ids == [IDS[piece] for piece in ("<s>", "ferry", "Ġa", "<mask>", "</s>")]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "ferry a"


@pytest.mark.parametrize("texts", [["ferry", "a tear"], ["  far ", "", "a\nxyz"]])
def test_it_says_what_bart_s_says_of_any_batch(folder, texts):
    ours, barts = (kind.from_pretrained(folder) for kind in (ElmerTokenizer, BartTokenizer))

    assert ours(texts, padding=True).data == barts(texts, padding=True).data
    assert ours(texts)["input_ids"] != ours([text[::-1] for text in texts])["input_ids"]


def test_what_it_saves_is_read_by_name_alone(folder, tmp_path):
    tokenizer = ElmerTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(tmp_path / "saved")

    again = AutoTokenizer.from_pretrained(tmp_path / "saved")

    assert again("a ferry")["input_ids"] == tokenizer("a ferry")["input_ids"]
    names = ("bos_token_id", "pad_token_id", "eos_token_id", "mask_token_id")
    assert [getattr(again, name) for name in names] == [0, 1, 2, len(PIECES) - 1]
