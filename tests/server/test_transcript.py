"""Stop strings wherever they lie, and tokens that belong to the text that is shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.server.jobs import Written
from offramp.server.spelling import Vocabulary
from offramp.server.transcript import Transcript
from small_server import byte_tokenizer

VOCABULARY = Vocabulary(byte_tokenizer(), size=259)
LETTERS = "ab€"
TEXTS = st.text(alphabet=LETTERS, max_size=20)
STOPS = st.lists(st.text(alphabet=LETTERS, min_size=1, max_size=4), max_size=3)
END = 2


def told(tokens, stop=(), ending="length", **options):
    """Feed tokens; give all pieces and the transcript."""
    transcript = Transcript(VOCABULARY, stop=stop, silent=frozenset({END}), **options)
    pieces = []
    for token in tokens:
        pieces.append(transcript.add(Written(token=token, exit=4, confidence=1.0)))
        if transcript.ending is not None:
            break
    return [*pieces, transcript.end(ending)], transcript


def before(text, stop):
    """The text up to the string that is whole first, as its characters come one by one."""
    for end in range(len(text) + 1):
        found = [at for at in map(text[:end].find, stop) if at >= 0]
        if found:
            return text[: min(found)]
    return text


@given(text=TEXTS, stop=STOPS)
def test_what_is_shown_ends_before_the_stop_string_that_is_whole_first(text, stop):
    pieces, transcript = told(VOCABULARY.encode(text), stop)

    shown = "".join(each.text for each in pieces)

    assert shown == before(text, stop)
    assert transcript.ending == ("length" if shown == text else "stop")


@given(text=TEXTS, stop=STOPS)
def test_nothing_of_a_stop_string_is_ever_shown(text, stop):
    """Whatever was shown at any time is a beginning of what is shown at the end."""
    pieces, _ = told(VOCABULARY.encode(text), stop)

    shown = ""
    for each in pieces:
        shown += each.text
        assert before(text, stop).startswith(shown)


@given(text=TEXTS, stop=STOPS)
def test_the_texts_of_tokens_are_the_text(text, stop):
    pieces, _ = told(VOCABULARY.encode(text), stop)
    tokens = [token for each in pieces for token in each.tokens]

    shown = "".join(each.text for each in pieces)

    assert "".join(token.text for token in tokens) == shown
    assert [token.start for token in tokens] == [
        len("".join(each.text for each in tokens[:place])) for place in range(len(tokens))
    ]


@given(ids=st.lists(st.integers(0, 258), max_size=20), stop=STOPS)
def test_any_tokens_give_their_decoded_text(ids, stop):
    ids = [token for token in ids if token != END]

    pieces, transcript = told(ids, stop)

    shown = "".join(each.text for each in pieces)
    whole = VOCABULARY.decode(ids)
    assert shown == before(whole, stop) or (transcript.ending == "stop" and whole.startswith(shown))
    if transcript.ending == "length":
        assert [token.written.token for each in pieces for token in each.tokens] == ids


def test_text_is_held_back_only_while_it_may_begin_a_stop_string():
    pieces, _ = told(VOCABULARY.encode("abaa"), ["abb"])

    assert [each.text for each in pieces] == ["", "", "ab", "a", "a"]


def test_the_token_that_ends_a_text_is_counted_and_not_shown():
    pieces, transcript = told([*VOCABULARY.encode("ab"), END], ending="stop")

    assert "".join(each.text for each in pieces) == "ab"
    assert transcript.count == 3
    assert sum(len(each.tokens) for each in pieces) == 2


@pytest.mark.parametrize("stop", [["€"], ["a€"], ["€b"]])
def test_a_stop_string_may_end_within_a_token_run_of_one_character(stop):
    pieces, transcript = told(VOCABULARY.encode("a€b"), stop)

    assert transcript.ending == "stop"
    assert "".join(each.text for each in pieces) == before("a€b", stop)


@pytest.mark.parametrize("text", ["", "ab", "a\N{EURO SIGN}"])
def test_the_token_that_ended_a_text_is_told_as_the_last_one_if_that_is_wished(text):
    tokens = [*VOCABULARY.encode(text), END]

    pieces, _ = told(tokens, ending="stop", tells_end=True)

    found = [each for piece in pieces for each in piece.tokens]
    assert [each.written.token for each in found] == tokens
    assert "".join(each.text for each in found) == text
    assert (found[-1].text, found[-1].start) == ("", len(text))


def test_a_token_that_would_have_ended_the_text_but_did_not_is_not_told():
    pieces, _ = told([END, *VOCABULARY.encode("a")], tells_end=True)

    assert [each.written.token for piece in pieces for each in piece.tokens] == [
        *VOCABULARY.encode("a")
    ]
