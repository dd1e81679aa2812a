"""Packing, masks, batches and order of rows."""

import json
import logging
import pickle
import resource

import datasets
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offramp.errors import ConfigError, InputError
from offramp.logits.labels import NO_LABEL
from offramp.training.data import Collator, DataSettings, load_rows
from offramp.training.packing import Columns, tokens_of

END = 2
CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


def encoded(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def write(folder, rows, name="rows.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def rows_of(source, tokenizer, **more):
    return list(load_rows(DataSettings(source=source, shuffle=False, **more), tokenizer))


texts = st.lists(st.text(st.characters(codec="utf-8"), max_size=12), min_size=1, max_size=80)


@given(documents=texts, block_size=st.integers(2, 9))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_packing_loses_no_token_and_changes_no_order(byte_tokenizer, documents, block_size):
    columns = Columns(text="text", prompt="prompt", completion="completion")
    rows = iter([("somewhere", {"text": text}) for text in documents])

    blocks = list(tokens_of(rows, byte_tokenizer, columns=columns, block_size=block_size))

    stream = []
    for text in filter(None, documents):
        stream += ([END] if stream else []) + encoded(byte_tokenizer, text)
    packed = [token for block in blocks for token in block["input_ids"]]
    assert packed == (stream[:-1] if len(stream) % block_size == 1 else stream)
    assert all(len(block["input_ids"]) == block_size for block in blocks[:-1])
    assert all(block["labels"] == block["input_ids"] for block in blocks)


def test_documents_are_parted_by_the_end_token(byte_tokenizer, tmp_path):
    source = write(tmp_path, [{"text": "ab"}, {"text": ""}, {"text": None}, {"text": "c"}])

    (row,) = rows_of(source, byte_tokenizer)

    assert byte_tokenizer.decode(row["input_ids"]) == "ab</s>c"


def test_documents_begin_as_the_tokenizer_begins_them(byte_tokenizer, tmp_path):
    byte_tokenizer.add_bos_token = True
    byte_tokenizer.update_post_processor()
    source = write(tmp_path, [{"text": "ab"}, {"text": "c"}])

    (row,) = rows_of(source, byte_tokenizer)

    assert byte_tokenizer.decode(row["input_ids"]) == "<s>ab</s><s>c"


def test_labels_hide_exactly_the_prompt(byte_tokenizer, tmp_path):
    source = write(tmp_path, [{"prompt": "two: ", "completion": "2"}])

    (row,) = rows_of(source, byte_tokenizer)

    assert byte_tokenizer.decode(row["input_ids"]) == "two: 2</s>"
    assert row["labels"] == [NO_LABEL] * 5 + [*encoded(byte_tokenizer, "2"), END]


def test_tokens_in_a_pair_are_taken_as_they_are(byte_tokenizer, tmp_path):
    source = write(tmp_path, [{"prompt": [1, 70], "completion": [71, 72], "text": "no"}])

    (row,) = rows_of(source, byte_tokenizer)

    assert row == {"input_ids": [1, 70, 71, 72], "labels": [NO_LABEL, NO_LABEL, 71, 72]}


def test_a_pair_is_cut_and_dropped_when_nothing_to_learn_is_left(byte_tokenizer, tmp_path, caplog):
    pairs = [("long prompt", "x"), ("a", "long completion"), ("", [])]
    source = write(tmp_path, [{"prompt": p, "completion": c} for p, c in pairs])

    with caplog.at_level(logging.WARNING, "offramp"):
        (row,) = rows_of(source, byte_tokenizer, block_size=4)

    assert byte_tokenizer.decode(row["input_ids"]) == "alon"
    assert "2 of 3 rows hold nothing to learn in 4 tokens" in caplog.text


def test_an_encoder_reads_the_prompt_and_a_decoder_learns_the_completion(byte_tokenizer, tmp_path):
    byte_tokenizer.add_bos_token = True
    byte_tokenizer.update_post_processor()
    pairs = [("one", "uno"), ("a long prompt", ""), ([5, 6], [7])]
    source = write(tmp_path, [{"prompt": p, "completion": c} for p, c in pairs])

    rows = rows_of(source, byte_tokenizer, apart=True, block_size=8)

    said = [[byte_tokenizer.decode(row[name]) for name in row] for row in rows[:2]]
    assert said == [["<s>one", "<s>uno</s>"], ["<s>a long ", "<s></s>"]]
    assert rows[2] == {"input_ids": [5, 6], "labels": [7]}
    batch = Collator(byte_tokenizer)(rows)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (3, 8)
    assert batch["labels"].shape == (3, 5)
    assert batch["labels"][2].tolist() == [7] + [NO_LABEL] * 4


@pytest.mark.parametrize("row", [{"text": "a"}, {"messages": []}])
def test_an_encoder_decoder_learns_from_pairs_only(byte_tokenizer, tmp_path, row):
    source = write(tmp_path, [row])

    with pytest.raises(InputError, match=r"line 1: an encoder-decoder learns from pairs"):
        rows_of(source, byte_tokenizer, apart=True)


def test_only_answers_of_a_conversation_are_learned(byte_tokenizer, tmp_path):
    byte_tokenizer.chat_template = CHAT
    said = [
        ("system", "s"),
        ("user", "hi"),
        ("assistant", "yes"),
        ("user", "?"),
        ("assistant", "no"),
    ]
    turns = [{"role": role, "content": content} for role, content in said]
    source = write(tmp_path, [{"messages": [*turns, {"role": "user", "content": "bye"}]}])

    (row,) = rows_of(source, byte_tokenizer)

    learned = [label for label in row["labels"] if label != NO_LABEL]
    assert byte_tokenizer.decode(learned) == "yes</s>no</s>"
    written = byte_tokenizer.apply_chat_template(turns, tokenize=False)
    assert row["input_ids"] == encoded(byte_tokenizer, written)


def test_a_template_that_rewrites_earlier_turns_is_refused(byte_tokenizer, tmp_path):
    byte_tokenizer.chat_template = "{{ messages | length }}" + CHAT
    source = write(tmp_path, [{"messages": [{"role": "assistant", "content": "a"}] * 2}])

    with pytest.raises(InputError, match=r"line 1: the chat template writes earlier turns anew"):
        rows_of(source, byte_tokenizer)


def test_a_conversation_may_begin_with_an_answer(byte_tokenizer, tmp_path):
    byte_tokenizer.chat_template = CHAT
    said = [("assistant", "hello"), ("user", "hi"), ("assistant", "yes")]
    source = write(tmp_path, [{"messages": [{"role": r, "content": c} for r, c in said]}])

    (row,) = rows_of(source, byte_tokenizer)

    learned = [label for label in row["labels"] if label != NO_LABEL]
    assert byte_tokenizer.decode(learned) == "<assistant>hello</s>yes</s>"


def test_conversations_need_a_chat_template(byte_tokenizer, tmp_path):
    source = write(tmp_path, [{"messages": [{"role": "assistant", "content": "a"}]}])

    with pytest.raises(InputError, match="the tokenizer has no chat template"):
        rows_of(source, byte_tokenizer)


SOURCES = {
    "text": [{"text": f"document {i}"} for i in range(40)],
    "pairs": [{"prompt": f"{i} ", "completion": f"{i + 1}"} for i in range(40)],
}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_stream_gives_the_stored_rows(byte_tokenizer, tmp_path, kind):
    source = write(tmp_path, SOURCES[kind])

    stored = rows_of(source, byte_tokenizer, block_size=16)
    streamed = rows_of(source, byte_tokenizer, block_size=16, streaming=True)

    assert len(stored) > 10
    assert streamed == stored


@pytest.mark.parametrize("streaming", [False, True])
def test_the_order_is_the_seeds(byte_tokenizer, tmp_path, streaming):
    source = write(tmp_path, SOURCES["pairs"])

    def order(**more):
        made = DataSettings(source=source, streaming=streaming, **more)
        return [tuple(row["input_ids"]) for row in load_rows(made, byte_tokenizer)]

    assert order(seed=1) == order(seed=1)
    assert order(seed=1) != order(seed=2)
    assert sorted(order(seed=1)) == sorted(order(shuffle=False))


def test_a_limit_stops_after_about_as_many_tokens(byte_tokenizer, tmp_path):
    source = write(tmp_path, SOURCES["text"])

    rows = rows_of(source, byte_tokenizer, block_size=10, limit=35)

    assert sum(len(row["input_ids"]) for row in rows) == 40


def test_a_changed_file_or_tokenizer_or_setting_is_read_anew(byte_tokenizer, tmp_path):
    source = write(tmp_path, [{"text": "before"}])
    before = rows_of(source, byte_tokenizer)
    write(tmp_path, [{"text": "afterwards"}])

    after = rows_of(source, byte_tokenizer)
    shorter = rows_of(source, byte_tokenizer, block_size=5)
    byte_tokenizer.add_tokens(["after"])
    other = rows_of(source, byte_tokenizer)

    assert len(before[0]["input_ids"]) == 6
    assert [len(row["input_ids"]) for row in after] == [10]
    assert [len(row["input_ids"]) for row in shorter] == [5, 5]
    assert [len(row["input_ids"]) for row in other] == [6]


def test_nothing_is_written_beside_the_source(byte_tokenizer, tmp_path):
    source = write(tmp_path, SOURCES["pairs"])

    rows = load_rows(DataSettings(source=source), byte_tokenizer)
    rows.map(lambda row: {"length": len(row["labels"])})

    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_stream_can_be_sent_to_another_process(byte_tokenizer, tmp_path):
    source = write(tmp_path, SOURCES["pairs"])
    rows = load_rows(DataSettings(source=source, streaming=True), byte_tokenizer)

    assert list(pickle.loads(pickle.dumps(rows))) == list(rows)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"body": "x", "id": 1}],
            r"line 1: cannot tell what to learn: found the columns body, id",
        ),
        ([{"text": "x" * 9}, {"body": "y"}], r"line 2: no column text, found body"),
        ([{"text": "x" * 9}, {"text": 3}], r"line 2: text must be a text, got a int"),
        ([{"prompt": "x", "completion": [1, "y"]}], r"line 1: completion must be a text or a list"),
        (
            [{"prompt": "longer", "completion": "y"}],
            r"1 of 1 rows hold nothing .* block_size larger",
        ),
        ([{"messages": "hi"}], r'line 1: messages must be a list of objects with "role"'),
        ([], r"rows.jsonl holds nothing to train on"),
    ],
)
def test_a_row_that_cannot_be_used_ends_in_one_line(
    byte_tokenizer, tmp_path, streaming, rows, message
):
    source = write(tmp_path, rows)

    with pytest.raises(InputError, match=message) as caught:
        rows_of(source, byte_tokenizer, streaming=streaming, block_size=4)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [{"block_size": 1}, {"limit": 0}, {"source": ""}, {"source": []}, {"text": ""}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"^{next(iter(wrong))} "):
        DataSettings(**{"source": "a.txt", **wrong})


def test_a_batch_is_padded_on_the_right(byte_tokenizer):
    rows = [
        {"input_ids": [5, 6, 7], "labels": [NO_LABEL, 6, 7]},
        {"input_ids": [8], "labels": [8]},
    ]

    batch = Collator(byte_tokenizer, multiple_of=4)(rows)

    assert batch["input_ids"].tolist() == [[5, 6, 7, 0], [8, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert batch["labels"].tolist() == [[NO_LABEL, 6, 7, NO_LABEL], [8] + [NO_LABEL] * 3]
    assert {tensor.dtype for tensor in batch.values()} == {torch.long}


def test_a_tokenizer_without_padding_pads_with_its_end(byte_tokenizer):
    byte_tokenizer.pad_token = None
    rows = [{"input_ids": [5, 6], "labels": [5, 6]}, {"input_ids": [8], "labels": [8]}]

    assert Collator(byte_tokenizer)(rows)["input_ids"].tolist() == [[5, 6], [8, END]]


def test_lengths_are_multiples_of_at_least_one(byte_tokenizer):
    with pytest.raises(ConfigError, match="multiple_of must be at least 1, got 0"):
        Collator(byte_tokenizer, multiple_of=0)


def test_a_disk_that_is_full_ends_in_one_line(byte_tokenizer, tmp_path):
    source = write(tmp_path, [{"text": "word " * 200}] * 50)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(InputError, match=r"cannot keep the rows .* make room"):
            rows_of(source, byte_tokenizer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert rows_of(source, byte_tokenizer)
