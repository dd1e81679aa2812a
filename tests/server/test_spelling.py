"""Text of tokens as they come: the whole is the decoded whole, and never half a character."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from offramp.errors import CheckpointError
from offramp.server.spelling import UNKNOWN, Spelling, Vocabulary
from small_server import byte_tokenizer

WORDS = ["▁", "▁a", "▁ferry", "fer", "ry", "é", ".", "▁▁", "€"]
TEXTS = st.text(alphabet="aé€😀\n 👩‍👧", max_size=12)


def word_tokenizer():
    """Words with a mark for a space before them, and bytes for all else, as Llama 2 has it."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *WORDS]
    bare = Tokenizer(
        models.BPE(
            {name: number for number, name in enumerate(names)},
            [],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    bare.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    bare.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bare, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def metaspace_tokenizer():
    """Words whose decoder drops the mark of the first one."""
    names = ["<unk>", "<s>", *WORDS]
    bare = Tokenizer(models.BPE({name: n for n, name in enumerate(names)}, [], unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.Metaspace()
    bare.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=bare, unk_token="<unk>", bos_token="<s>")


VOCABULARIES = {
    make.__name__: Vocabulary(make(), size=len(make()))
    for make in (byte_tokenizer, word_tokenizer, metaspace_tokenizer)
}


def spelled(vocabulary, tokens):
    spelling = Spelling(vocabulary)
    return [spelling.add(each) for each in tokens], spelling.rest()


@pytest.mark.parametrize("name", VOCABULARIES)
@given(data=st.data())
def test_pieces_joined_are_the_decoded_tokens(name, data):
    vocabulary = VOCABULARIES[name]
    tokens = data.draw(st.lists(st.integers(0, vocabulary.size - 1), max_size=30))

    pieces, rest = spelled(vocabulary, tokens)

    assert "".join(pieces) + rest == vocabulary.tokenizer.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize("name", ["byte_tokenizer", "word_tokenizer"])
@given(text=TEXTS)
def test_a_character_comes_whole_or_not_at_all(name, text):
    vocabulary = VOCABULARIES[name]
    tokens = vocabulary.encode(text)

    pieces, rest = spelled(vocabulary, tokens)

    assert not any(UNKNOWN in piece for piece in pieces)
    assert "".join(pieces) + rest == vocabulary.decode(tokens)


def test_a_character_is_shown_with_its_last_byte():
    vocabulary = VOCABULARIES["byte_tokenizer"]

    pieces, rest = spelled(vocabulary, vocabulary.encode("a€b"))

    assert (pieces, rest) == (["a", "", "", "€", "b"], "")


def test_half_a_character_at_the_end_is_shown_as_unknown():
    vocabulary = VOCABULARIES["byte_tokenizer"]

    assert spelled(vocabulary, vocabulary.encode("a€")[:-1]) == (["a", "", ""], UNKNOWN)


@given(text=TEXTS)
def test_the_bytes_of_tokens_are_those_of_the_text(text):
    for name, before in (("byte_tokenizer", ""), ("word_tokenizer", " ")):
        vocabulary = VOCABULARIES[name]

        raw = b"".join(map(vocabulary.raw, vocabulary.encode(text)))

        assert raw.decode() == (before + text if text else "")


def test_a_foreign_tokenizer_is_refused():
    vocabulary = Vocabulary(byte_tokenizer(), size=5)

    with pytest.raises(CheckpointError, match="give the model its own tokenizer"):
        vocabulary.encode("zebra")


def test_a_special_token_does_not_end_a_run_of_bytes():
    vocabulary = VOCABULARIES["word_tokenizer"]
    tokens = vocabulary.tokenizer.convert_tokens_to_ids(["<0x00>", "<s>", "<0x80>"])

    pieces, rest = spelled(vocabulary, tokens)

    assert "".join(pieces) + rest == vocabulary.decode(tokens) == 2 * UNKNOWN
