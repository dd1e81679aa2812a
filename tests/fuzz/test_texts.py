"""Damaged files of prompts, pairs, texts and results: rows, or one line that names the place."""

import csv
import io
import json

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzing import JUNK, NESTED, broken, fuzzed, json_files, outcome
from offramp.cli.journal import Journal
from offramp.cli.kept import KeptText
from offramp.cli.output import ResultFile, key_of
from offramp.cli.prompts import read_prompts
from offramp.evaluation.pairs import read_pairs
from offramp.training.packing import Columns, tokens_of
from offramp.training.pairs import pairs_of
from offramp.training.sources import open_source

TURNS = [{"role": "user", "content": "a ferry"}, {"role": "assistant", "content": "yes"}]
DOCUMENTS = {
    "text": {"text": "one two"},
    "pair": {"prompt": "a", "completion": "b"},
    "tokens": {"prompt": [3, 4], "completion": [5]},
    "turns": {"messages": TURNS},
    "targets": {"source": "a", "target": "b", "targets": ["c"]},
}


class Letters:
    """A tokenizer of letters that knows a chat."""

    eos_token_id, bos_token_id, chat_template = 2, 1, "x"

    def __call__(self, text, **_):
        one = isinstance(text, str)
        ids = [[ord(each) % 50 for each in some] for some in ([text] if one else text)]
        return {"input_ids": ids[0] if one else ids}

    def apply_chat_template(self, messages, **_):
        return "".join(each["content"] for each in messages)


@pytest.fixture
def place(tmp_path):
    return tmp_path


def lines(document):
    """A file of lines of JSON, of which one is damaged."""
    good = json.dumps(document).encode() + b"\n"
    wrong = st.one_of(json_files(document), JUNK.map(lambda value: json.dumps(value).encode()))
    return wrong.map(lambda line: good + line + b"\n" + good)


@fuzzed(15)
@given(data=st.data())
def test_prompts(place, data):
    path = place / "prompts"
    document = data.draw(st.sampled_from(({"prompt": "a ferry"}, {"messages": TURNS})))
    path.write_bytes(data.draw(st.one_of(lines(document), st.binary(max_size=40))))

    for option in ("file", "jsonl"):
        given = {"file": None, "jsonl": None, option: path}
        found = outcome(read_prompts, argument=None, stdin=None, **given)
        assert found is None or all(each.content for each in found)


@fuzzed(15)
@given(data=st.data())
def test_pairs(place, data):
    path = place / "pairs.jsonl"
    path.write_bytes(data.draw(lines(DOCUMENTS["targets"])))

    found = outcome(read_pairs, path)

    assert found is None or all(each.references for each in found)


@st.composite
def parquet_files(draw):
    values = draw(st.lists(st.sampled_from((None, "", "a ferry", "\x00")), max_size=4))
    columns = {draw(st.sampled_from(("text", "prompt", "source"))): pyarrow.array(values, "string")}
    numbers = draw(st.lists(st.one_of(st.none(), st.integers(-9, 9)), max_size=4))
    if len(numbers) == len(values):
        columns["completion"] = pyarrow.array(numbers, "int64")
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), sink)
    whole = sink.getvalue()
    return draw(st.one_of(st.just(whole), broken(whole)))


@st.composite
def csv_files(draw):
    sink = io.StringIO(newline="")
    writer = csv.writer(sink)
    cells = st.sampled_from(("text", "source", "target", "", "a\nb", '"', "NA", "1", "x" * 200))
    for _ in range(draw(st.integers(0, 3))):
        writer.writerow(draw(st.lists(cells, max_size=3)))
    whole = sink.getvalue().encode()
    return draw(st.one_of(st.just(whole), broken(whole)))


SOURCES = {
    ".jsonl": st.sampled_from(list(DOCUMENTS.values())).flatmap(lines),
    ".json": st.sampled_from(list(DOCUMENTS.values())).flatmap(lambda one: json_files([one, one])),
    ".txt": st.one_of(st.binary(max_size=60), st.sampled_from(NESTED[3:])),
    ".csv": csv_files(),
    ".parquet": parquet_files(),
}


@pytest.mark.parametrize("suffix", SOURCES)
@fuzzed(12)
@given(data=st.data())
def test_texts_to_train_on(place, suffix, data):
    path = place / f"texts{suffix}"
    path.write_bytes(data.draw(SOURCES[suffix]))

    def rows():
        source = open_source(str(path), split="train", streaming=False)
        given = tokens_of(
            source.rows("text"),
            Letters(),
            columns=Columns(text="text", prompt="prompt", completion="completion"),
            block_size=8,
            apart=False,
        )
        return list(given)

    def pairs():
        found = open_source(str(path), split="train", streaming=False).rows("text")
        return pairs_of(found, source="source", target="target")

    outcome(rows)
    outcome(pairs)


@fuzzed(15)
@given(data=st.data())
def test_results_that_are_gone_on_with(place, data):
    path, keys = place / "out.jsonl", [key_of(f"prompt {each}", {}) for each in range(3)]
    path.unlink(missing_ok=True)
    with ResultFile(path, keys, overwrite=False) as file:
        file.append({index: {"text": "a", "model": "m"} for index in range(2)})
    whole = path.read_bytes()
    document = json.loads(whole.split(b"\n")[0])
    damaged = data.draw(st.one_of(broken(whole), lines(document)))
    path.write_bytes(damaged)

    def go_on():
        with ResultFile(path, keys, overwrite=False) as file:
            left = [index for index in range(3) if index not in file.finished]
            file.append({index: {"text": "a", "model": "m"} for index in left})
        return True

    if outcome(go_on):
        found = [json.loads(line)["index"] for line in path.read_bytes().splitlines()]
        assert sorted(found) == [0, 1, 2]
    else:
        assert path.read_bytes() == damaged


FACTS = {"settings": {"unfreeze": False, "seed": 1}, "text": {"data": ["a"]}}


@fuzzed(15)
@given(data=st.data(), overwrite=st.booleans())
def test_what_a_training_notes(place, data, overwrite):
    folder = place / "trained"
    folder.mkdir(exist_ok=True)
    for each in folder.iterdir():
        each.unlink()
    options = {"writer": None, "overwrite": False, "writing": True}
    Journal(folder, FACTS, **options).note(trained=True)
    path = folder / "course.json"
    path.write_bytes(data.draw(json_files(json.loads(path.read_bytes()))))

    journal = outcome(Journal, folder, FACTS, **{**options, "overwrite": overwrite})

    assert journal is None or isinstance(journal.results.get("trained"), bool | None)


@fuzzed(15)
@given(data=st.data())
def test_states_that_are_kept(place, data):
    (place / "states" / "text.json").unlink(missing_ok=True)
    kept = KeptText(place / "states")
    kept.write({"text": {"data": ["a"]}, "batch_size": 4}, positions=7)
    path = kept.folder / "text.json"
    path.write_bytes(data.draw(json_files(json.loads(path.read_bytes()))))

    found = outcome(KeptText, kept.folder)

    if found is not None:
        outcome(found.check, batch_size=4)
