"""Text that a model writes: resumed to the byte, decided by the seed, kind to other files."""

import json
import random
import resource

import pytest
import torch

import tiny
from offramp.errors import ConfigError, InputError
from offramp.logits.labels import NO_LABEL
from offramp.training.data import DataSettings, load_rows
from offramp.training.self_text import SelfText, write_self_text

SHORT = SelfText(tokens=80, batch_size=4, max_new_tokens=10)
END = 2
CHAT = (
    "<s>{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def model():
    """A model of bytes that often ends."""
    model = tiny.model_of("llama", vocab_size=259, max_position_embeddings=256)
    with torch.no_grad():
        model.lm_head.weight[END] *= 2
    return model


def rows_of(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if "text" in line]


def ways(tokenizer, way):
    """Prompts, and a tokenizer that is set for them."""
    tokenizer.chat_template = CHAT if way == "chat" else None
    return ["Hello", "One two", "x"] if way == "prompts" else None


@pytest.mark.parametrize("way", ["alone", "prompts", "chat"])
def test_a_file_cut_anywhere_ends_with_the_same_bytes(model, byte_tokenizer, tmp_path, way):
    prompts = ways(byte_tokenizer, way)
    path = tmp_path / "self.jsonl"
    total = write_self_text(model, byte_tokenizer, path, SHORT, prompts=prompts)
    whole = path.read_bytes()
    cuts = random.Random(way).sample(range(len(whole)), 4)

    for cut in [0, *cuts, len(whole) - 1]:
        path.write_bytes(whole[:cut])
        again = write_self_text(model, byte_tokenizer, path, SHORT, prompts=prompts)

        assert again == total >= SHORT.tokens
        assert path.read_bytes() == whole


def test_a_full_disk_ends_in_one_line_and_keeps_whole_batches(model, byte_tokenizer, tmp_path):
    path, aside = tmp_path / "self.jsonl", tmp_path / "whole.jsonl"
    prompts = ["Hello", "One two", "x"]
    total = write_self_text(model, byte_tokenizer, aside, SHORT, prompts=prompts)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = aside.stat().st_size * 2 // 3

    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(InputError, match=r"cannot write .*self.jsonl: File too large; free"):
            write_self_text(model, byte_tokenizer, path, SHORT, prompts=prompts)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert path.stat().st_size <= room
    assert write_self_text(model, byte_tokenizer, path, SHORT, prompts=prompts) == total
    assert path.read_bytes() == aside.read_bytes()


def test_every_cut_of_a_file_is_known_as_its_own(model, byte_tokenizer, tmp_path):
    path = tmp_path / "self.jsonl"
    one = SelfText(tokens=1, batch_size=2, max_new_tokens=6)
    write_self_text(model, byte_tokenizer, path, one)
    whole = path.read_bytes()

    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        write_self_text(model, byte_tokenizer, path, one)
        assert path.read_bytes() == whole


def test_more_tokens_go_on_where_fewer_ended(model, byte_tokenizer, tmp_path):
    told = []
    path, whole = tmp_path / "self.jsonl", tmp_path / "whole.jsonl"
    few, many = (SelfText(tokens=n, batch_size=4, max_new_tokens=10) for n in (50, 120))

    first = write_self_text(model, byte_tokenizer, path, few)
    total = write_self_text(model, byte_tokenizer, path, many, advance=told.append)

    assert told[0] == first
    assert sum(told) == total == write_self_text(model, byte_tokenizer, whole, many)
    assert path.read_bytes() == whole.read_bytes()


def test_the_seed_decides_the_text(model, byte_tokenizer, tmp_path):
    written = []
    for place, seed in enumerate([1, 1, 2]):
        settings = SelfText(tokens=60, batch_size=4, max_new_tokens=10, seed=seed)
        path = tmp_path / f"{place}.jsonl"
        write_self_text(model, byte_tokenizer, path, settings)
        written.append(path.read_bytes())

    assert written[0] == written[1] != written[2]


def test_without_prompts_or_template_texts_begin_with_the_first_token(
    model, byte_tokenizer, tmp_path
):
    write_self_text(model, byte_tokenizer, tmp_path / "self.jsonl", SHORT)

    rows = rows_of(tmp_path / "self.jsonl")

    assert {tuple(row["prompt"]) for row in rows} == {(byte_tokenizer.bos_token_id,)}
    assert not any(row["greedy"] for row in rows)
    assert len({row["text"] for row in rows}) == len(rows)


def test_each_prompt_is_answered_greedily_once_and_then_sampled(model, byte_tokenizer, tmp_path):
    prompts = ["Hello", "One two", "x", "yes", "no", "so"]
    write_self_text(
        model,
        byte_tokenizer,
        tmp_path / "self.jsonl",
        SelfText(tokens=300, batch_size=4, max_new_tokens=10),
        prompts=prompts,
    )

    rows = rows_of(tmp_path / "self.jsonl")

    greedy = [row for row in rows if row["greedy"]]
    assert [byte_tokenizer.decode(row["prompt"]) for row in greedy] == prompts
    sampled = [byte_tokenizer.decode(row["prompt"]) for row in rows if not row["greedy"]]
    assert sampled == [prompts[place % 6] for place in range(len(sampled))]
    assert len(sampled) > 12


def test_a_greedy_answer_is_the_models_own(model, byte_tokenizer, tmp_path):
    settings = SelfText(tokens=1, batch_size=2, max_new_tokens=8)
    write_self_text(
        model, byte_tokenizer, tmp_path / "self.jsonl", settings, prompts=["Hello there", "x"]
    )

    for row in rows_of(tmp_path / "self.jsonl"):
        ids = byte_tokenizer.decode(row["prompt"])
        alone = model.generate(
            **byte_tokenizer(ids, return_tensors="pt"), do_sample=False, max_new_tokens=8
        )
        assert alone[0].tolist() == row["prompt"] + row["completion"]
        assert row["text"] == byte_tokenizer.decode(alone[0])


def test_a_model_with_a_template_writes_the_users_turns(model, byte_tokenizer, tmp_path):
    byte_tokenizer.chat_template = CHAT
    write_self_text(model, byte_tokenizer, tmp_path / "self.jsonl", SHORT)

    rows = rows_of(tmp_path / "self.jsonl")

    opened = [byte_tokenizer.decode(row["prompt"]) for row in rows]
    assert all(text.startswith("<s><user>") and text.endswith("</s><assistant>") for text in opened)
    assert len(set(opened)) > 4
    assert {row["greedy"] for row in rows} == {True, False}


def test_a_text_ends_with_its_end_token_or_at_the_longest_length(model, byte_tokenizer, tmp_path):
    settings = SelfText(tokens=1500, batch_size=32, max_new_tokens=60)
    write_self_text(model, byte_tokenizer, tmp_path / "self.jsonl", settings)

    rows = [row["completion"] for row in rows_of(tmp_path / "self.jsonl")]

    assert all(END not in row[:-1] for row in rows)
    assert {row[-1] == END for row in rows if len(row) < 60} == {True}
    assert any(len(row) == 60 for row in rows)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_an_encoder_decoder_answers_as_it_does_alone(family, byte_tokenizer, tmp_path):
    model = tiny.model_of(family, vocab_size=259)
    path = tmp_path / "self.jsonl"
    settings = SelfText(tokens=1, batch_size=2, max_new_tokens=6)

    write_self_text(model, byte_tokenizer, path, settings, prompts=["a longer one", "x"])

    for row in rows_of(path):
        ids = torch.tensor([row["prompt"]])
        alone = model.generate(ids, max_new_tokens=6, do_sample=False)[0, 1:].tolist()
        assert row["greedy"]
        assert row["completion"] == alone
    with pytest.raises(InputError, match="give prompts"):
        write_self_text(model, byte_tokenizer, tmp_path / "none.jsonl", settings)


def test_what_was_written_is_what_is_trained_on(model, byte_tokenizer, tmp_path):
    path = tmp_path / "self.jsonl"
    write_self_text(model, byte_tokenizer, path, SHORT, prompts=["Hello", "x"])
    settings = DataSettings(source=str(path), streaming=True, shuffle=False)

    read = list(load_rows(settings, byte_tokenizer))

    rows = rows_of(path)
    assert [row["input_ids"] for row in read] == [row["prompt"] + row["completion"] for row in rows]
    for row, mine in zip(read, rows, strict=True):
        hidden = [NO_LABEL] * len(mine["prompt"])
        assert row["labels"] == hidden + mine["completion"]


@pytest.mark.parametrize(
    "content",
    [
        "one line of somebody's text",
        "one line of somebody's text\n",
        '{"prompt": "two", "completion": "2"}\n',
        '{"prompt": [1], "completion": [2]}',
        '{"batch": 7, "prompt": [1], "completion": [2], "text": "", "greedy": true}\n{"end": 7}\n',
        '{"end": 3}\n',
        '{"batch": 0, "prompt": [1]}\n',
        "[]\n",
        '{"end": 0}\nmine\n',
        "\n",
    ],
)
def test_a_foreign_file_is_refused_and_left_alone(model, byte_tokenizer, tmp_path, content):
    path = tmp_path / "mine.jsonl"
    path.write_text(content)

    with pytest.raises(InputError, match=r"mine.jsonl holds something else than self-generated"):
        write_self_text(model, byte_tokenizer, path, SHORT)

    assert path.read_text() == content


def test_a_folder_that_is_missing_is_named(model, byte_tokenizer, tmp_path):
    with pytest.raises(InputError, match=r"cannot write .*self.jsonl: No such file or directory"):
        write_self_text(model, byte_tokenizer, tmp_path / "no" / "self.jsonl", SHORT)


def test_no_prompts_are_refused(model, byte_tokenizer, tmp_path):
    with pytest.raises(InputError, match="prompts is empty"):
        write_self_text(model, byte_tokenizer, tmp_path / "self.jsonl", SHORT, prompts=[])


def test_a_template_that_does_not_end_the_users_turn_is_refused(model, byte_tokenizer, tmp_path):
    byte_tokenizer.chat_template = "{{ messages[0].content }}"

    with pytest.raises(InputError, match="puts nothing after the user's words"):
        write_self_text(model, byte_tokenizer, tmp_path / "self.jsonl", SHORT)


def test_a_tokenizer_without_a_first_token_needs_prompts(model, byte_tokenizer, tmp_path):
    byte_tokenizer.bos_token = byte_tokenizer.eos_token = None

    with pytest.raises(InputError, match="no token that begins a text; give prompts"):
        write_self_text(model, byte_tokenizer, tmp_path / "self.jsonl", SHORT)


def test_a_model_that_never_ends_the_users_turn_is_given_up(model, byte_tokenizer, tmp_path):
    byte_tokenizer.chat_template = CHAT.replace("</s>", "<never>")

    with pytest.raises(InputError, match="eight batches in a row held no text"):
        write_self_text(
            model,
            byte_tokenizer,
            tmp_path / "self.jsonl",
            SelfText(tokens=9, batch_size=1, max_new_tokens=1),
        )


@pytest.mark.parametrize(
    "wrong",
    [{"tokens": 0}, {"batch_size": 0}, {"max_new_tokens": 0}, {"temperature": 0}, {"min_p": 1}],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} "):
        SelfText(**wrong)
