"""Rows of whole sentences, exercises made of them, and pre-training itself: killed and divided."""

import json
import random
import re
import resource
import shutil
import time
from itertools import chain, pairwise

import datasets
import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSeq2SeqLM,
    PreTrainedTokenizerFast,
    TrainerCallback,
)

from offramp.errors import CheckpointError, ConfigError, InputError
from offramp.training.checkpoints import is_whole, last_checkpoint
from offramp.training.data import DataSettings
from offramp.training.noise import row_generator
from offramp.training.pretraining import training_arguments
from offramp.training.pretraining_data import (
    CorruptedRows,
    CorruptedStream,
    ExerciseCollator,
    corruptor_for,
)
from offramp.training.pretraining_settings import (
    PUBLISHED,
    Noise,
    PretrainSettings,
    published_pretraining,
)
from offramp.training.pretraining_text import Sentences, lexicon_of, load_blocks
from small_pretraining import (
    ROWS,
    STREAM,
    Stream,
    config_of,
    elmer_of,
    run,
    texts,
    tokenizer_of,
    train,
)
from small_training import curve, finished, start, weights_of

BOS, PAD, END, MASK = 0, 1, 2, 3
NO_LABEL = -100
ALONE = {"dropout": 0.0, "attention_dropout": 0.0}
"""Without dropout, which each process draws for itself."""


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_of()


def blocks_of(tokenizer, documents, block_size, mix=True):
    rows = iter([("somewhere", {"text": text}) for text in documents])
    cut = Sentences(mix=mix)(rows, tokenizer, DataSettings(source="s", block_size=block_size))
    return [tokenizer.decode(row["input_ids"]) for row in cut]


# Tokens


def pieces_of(marks, tokenizer):
    return set(tokenizer.convert_ids_to_tokens(marks.nonzero()[:, 0].tolist()))


def test_a_byte_level_tokenizer_tells_words_sentences_and_its_frame(tokenizer):
    lexicon = lexicon_of(tokenizer)

    assert pieces_of(lexicon.special, tokenizer) == {"</s>", "<mask>", "<pad>", "<s>"}
    assert pieces_of(lexicon.word_starts, tokenizer) == {"Ġ", "ĉ", "Ċ"}
    assert sorted(tokenizer.batch_decode(lexicon.stops[:, None])) == ["!", ".", "?"]
    assert tokenizer.decode(lexicon.breaks) == "\n"
    assert (lexicon.before, lexicon.after, lexicon.target_after) == ((BOS,), (END,), (END,))
    assert lexicon.others.tolist() == list(range(4, 260))


def test_a_target_ends_even_if_the_tokenizer_adds_nothing():
    lexicon = lexicon_of(tokenizer_of(framed=False))

    assert (lexicon.before, lexicon.after, lexicon.target_after) == ((), (), (END,))


def words_tokenizer(pieces, continued="##"):
    core = models.WordPiece(
        {each: number for number, each in enumerate(["[UNK]", "[END]", *pieces])},
        unk_token="[UNK]",
        continuing_subword_prefix=continued,
    )
    bare = Tokenizer(core)
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=bare, unk_token="[UNK]", eos_token="[END]")


def test_word_pieces_tell_words_and_an_unknown_word_is_text():
    lexicon = lexicon_of(words_tokenizer(["a", "##b", ".", "c"]))

    assert lexicon.special.tolist() == [False, True, False, False, False, False]
    assert lexicon.word_starts.tolist() == [True, True, True, False, True, True]
    assert (lexicon.stops.tolist(), lexicon.others.tolist()) == ([4], [2, 3, 4, 5])


def test_a_tokenizer_of_words_knows_no_parts_of_them():
    assert lexicon_of(words_tokenizer(["a", "b"])).word_starts is None


@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"eos_token": None}, "no end token"), ({"unk_token": "a"}, "special tokens only")],
)
def test_a_tokenizer_that_cannot_be_used_is_refused(wrong, told):
    bare = Tokenizer(models.WordLevel({"[END]": 0, "a": 1}, unk_token="a"))
    named = {"eos_token": "[END]", "pad_token": "a", **wrong}
    odd = PreTrainedTokenizerFast(tokenizer_object=bare, **named)
    if "unk_token" in wrong:
        odd.unk_token = None

    with pytest.raises(ConfigError, match=told):
        lexicon_of(odd)


# Rows


documents = st.lists(st.text("ab. !\n", max_size=30), min_size=1, max_size=8)


@given(documents=documents, room=st.integers(1, 20), mix=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_hold_all_of_the_text_in_order_and_are_full(tokenizer, documents, room, mix):
    blocks = blocks_of(tokenizer, documents, room + 2, mix)

    assert all(0 < len(block) <= room for block in blocks)
    written = [text for text in documents if text.strip()]
    if mix:  # blank lines between documents come on top
        assert "".join(blocks).replace("\n", "") == "".join(written).replace("\n", "")
    else:
        assert "".join(blocks) == "".join(written)


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=20), room=st.integers(2, 15))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_sentence_is_cut_only_where_it_is_longer_than_a_row(tokenizer, sizes, room):
    sentences = ["a" * size + "." for size in sizes]

    blocks = blocks_of(tokenizer, ["".join(sentences)], room + 2)

    cut = [block for block in blocks if not block.endswith(".")]
    assert len(cut) == sum((len(each) - 1) // room for each in sentences)
    for block, after in pairwise(blocks):
        first = after.partition(".")[0] + "."
        assert not block.endswith(".") or len(block) + len(first) > room


def test_documents_share_a_row_with_a_blank_line_between_unless_told(tokenizer):
    given = ["One. Two.", "Three.\n\n", "Four."]

    assert blocks_of(tokenizer, given, 40) == ["One. Two.\n\nThree.\n\nFour."]
    assert blocks_of(tokenizer, given, 40, mix=False) == given


def test_lines_that_are_wrapped_are_no_sentences_and_paragraphs_are(tokenizer):
    row = torch.tensor(tokenizer("a\nb.\nc\n\nd", add_special_tokens=False)["input_ids"])

    ends = lexicon_of(tokenizer).marks(row).sentence_ends.nonzero()[:, 0] + 1

    assert [tokenizer.decode(each) for each in row.tensor_split(ends)] == ["a\nb.\n", "c\n\n", "d"]


def test_special_tokens_that_stand_in_a_text_are_left_out(tokenizer):
    assert blocks_of(tokenizer, ["one</s> two<mask>."], 40) == ["one two."]


def test_a_row_without_room_for_text_is_refused(tokenizer):
    with pytest.raises(ConfigError, match="block_size 2 leaves no room"):
        blocks_of(tokenizer, ["one"], 2)


TEXTS = [f"Ferry {n} sails. It is number {n}!" for n in range(30)]


@pytest.fixture(params=["jsonl", "parquet", "streamed", "folder", "txt"])
def source(request, tmp_path):
    """A source, whether it is streamed, and its documents."""
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), "utf-8")
    if request.param == "parquet":
        path = tmp_path / "text.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS}), path)
    elif request.param == "txt":
        path = tmp_path / "text.txt"
        path.write_text("\n".join(TEXTS), "utf-8")
        return str(path), False, ["\n".join(TEXTS)]
    elif request.param == "folder":
        path = path.parent
    return str(path), request.param == "streamed", TEXTS


def test_every_source_gives_rows(source, tokenizer):
    name, streaming, documents = source
    asked = DataSettings(source=name, block_size=60, streaming=streaming, shuffle=False)

    rows = [tokenizer.decode(row["input_ids"]) for row in load_blocks(asked, tokenizer)]

    assert rows == blocks_of(tokenizer, documents, 60)


def test_a_row_without_text_names_its_place(tmp_path, tokenizer):
    path = tmp_path / "odd.jsonl"
    path.write_text('{"text": "One."}\n{"txt": "Two."}\n', "utf-8")

    with pytest.raises(InputError, match=r"odd\.jsonl, line 2: no column text, found txt"):
        load_blocks(DataSettings(source=str(path)), tokenizer)


def test_a_limit_counts_tokens(tmp_path, tokenizer):
    path = tmp_path / "text.txt"
    path.write_text("A ferry. " * 100, "utf-8")

    rows = load_blocks(DataSettings(source=str(path), block_size=20, limit=100), tokenizer)

    assert 100 <= sum(map(len, rows["input_ids"])) < 120


# Exercises


@pytest.fixture(scope="module")
def corruptor(tokenizer):
    return corruptor_for(config_of(), tokenizer, noise=Noise(), seed=5)


@given(size=st.integers(1, 60), epoch=st.integers(0, 3), row=st.integers(0, 99))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_exercise_is_framed_clean_on_one_side_and_has_an_exit_for_each_place(
    corruptor, size, epoch, row
):
    text = torch.randint(4, 260, (size,), generator=row_generator(0, epoch=epoch, row=row)).tolist()

    exercise = corruptor(text, epoch=epoch, row=row)

    assert exercise["labels"] == [BOS, *text, END]
    assert (exercise["input_ids"][0], exercise["input_ids"][-1]) == (BOS, END)
    assert len(exercise["input_ids"]) <= 64
    given = min(len(exercise["input_ids"]) + 8, 64)  # by the source
    assert size + 2 <= len(exercise["exits"]) <= max(size + 2, given)
    assert set(exercise["exits"]) <= {1, 2, 3}


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_and_batch_mates_change_no_exercise(corruptor, tokenizer, workers):
    rows = CorruptedRows(texts(), corruptor)
    rows.set_epoch(1)
    order = [*range(1, ROWS, 2), *range(0, ROWS, 2)]

    loaded = DataLoader(
        rows, 5, sampler=order, num_workers=workers, collate_fn=ExerciseCollator(tokenizer)
    )

    found = [row for batch in loaded for row in zip(*batch.values(), strict=True)]
    for number, (ids, there, labels, exits) in zip(order, found, strict=True):
        alone = corruptor(texts()[number]["input_ids"], epoch=1, row=number)
        assert ids[there.bool()].tolist() == alone["input_ids"]
        size, places = len(alone["labels"]), len(alone["exits"])
        assert labels.tolist() == alone["labels"] + [NO_LABEL] * (len(labels) - size)
        assert exits.tolist() == alone["exits"] + [0] * (len(exits) - places)


def test_a_canvas_does_not_tell_where_its_target_ends_unless_the_model_has_no_slack(tokenizer):
    def behind(**more):
        corruptor = corruptor_for(config_of(**more), tokenizer, noise=Noise(), seed=5)
        rows = [corruptor([*range(4, 24)], epoch=epoch, row=0) for epoch in range(100)]
        return [row["exits"][len(row["labels"]) :] for row in rows]

    drawn = behind(canvas_extra=16)
    sizes = [len(exits) for exits in drawn]
    exits = torch.tensor([*chain.from_iterable(drawn)])
    assert (min(sizes), len(set(sizes)) > 8) == (0, True)
    for exit in (1, 2, 3):  # they leave as the others do
        assert (exits == exit).double().mean() == pytest.approx(1 / 3, abs=0.06)
    assert not any(behind(canvas_slack=False))


def test_each_epoch_corrupts_anew(corruptor):
    rows = CorruptedRows(texts(), corruptor)
    first = [rows[number] for number in range(ROWS)]
    rows.set_epoch(1)
    second = [rows[number] for number in range(ROWS)]

    assert [row["labels"] for row in first] == [row["labels"] for row in second]
    assert not any(one["exits"] == other["exits"] for one, other in zip(first, second, strict=True))
    same = [
        one["input_ids"] == other["input_ids"] for one, other in zip(first, second, strict=True)
    ]
    assert sum(same) < ROWS // 2  # a text of one word is often left as it is


def test_a_stream_gives_the_exercises_of_stored_rows(corruptor):
    stream, rows = CorruptedStream(Stream(), corruptor), CorruptedRows(texts(), corruptor)
    stream.set_epoch(2)
    rows.set_epoch(2)

    assert list(stream) == [rows[number] for number in range(ROWS)]


def test_heads_without_a_place_for_each_target_get_no_exits(tokenizer):
    corruptor = corruptor_for(config_of(output_head="ctc"), tokenizer, noise=Noise(), seed=5)

    assert set(corruptor([5, 6, 7], epoch=0, row=0)) == {"input_ids", "labels"}


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"vocab_size": 200}, "the tokenizer knows 260 tokens, the model 200"),
        ({"eos_token_id": 1}, "the end token is 2 for the tokenizer and 1 for the model"),
        ({"mask_token_id": 9}, "the mask token is 3 for the tokenizer and 9 for the model"),
    ],
)
def test_a_tokenizer_of_another_model_is_refused(tokenizer, config, told):
    with pytest.raises(CheckpointError, match=told):
        corruptor_for(config_of(**config), tokenizer, noise=Noise(), seed=0)


def test_a_mask_that_is_text_is_refused():
    tokenizer = tokenizer_of()
    tokenizer.mask_token = None

    with pytest.raises(ConfigError, match=r"mask_token_id 9 of the model is '\&' in texts"):
        corruptor_for(config_of(mask_token_id=9), tokenizer, noise=Noise(), seed=0)


def test_a_row_that_is_too_long_for_the_model_is_refused(corruptor):
    with pytest.raises(InputError, match="row 4 has 63 tokens of text, the model has room for 62"):
        corruptor([9] * 63, epoch=0, row=4)


# Settings


def test_the_recipe_is_the_published_one():
    chosen = published_pretraining(PretrainSettings(batch_size=16, epochs=10))

    given = training_arguments(chosen, "out", streamed=False, use_cpu=True)

    assert {name: getattr(chosen, name) for name in PUBLISHED} == PUBLISHED
    assert given.gradient_accumulation_steps * 16 == 4096
    assert (given.learning_rate, given.lr_scheduler_type.value) == (2e-5, "constant")
    assert (given.max_grad_norm, given.warmup_steps, given.weight_decay) == (2.0, 0, 0)
    assert (given.adam_beta1, given.adam_beta2, given.adam_epsilon) == (0.9, 0.999, 1e-8)
    assert (given.optim, given.bf16, given.num_train_epochs) == ("adamw_torch_fused", False, 10)


def test_as_many_rows_make_a_step_on_any_number_of_processes(monkeypatch):
    asked = PretrainSettings(batch_size=8, rows_per_step=64)

    for processes, batches in ((1, 8), (2, 4), (8, 1)):
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        assert asked.accumulate(processes=processes) == batches
    with pytest.raises(ConfigError, match=r"multiple of 24, batch_size times .* got 64"):
        asked.accumulate(processes=3)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"clip": 0}, "clip must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0"),
        ({"warmup": 1.0}, "warmup must be from 0 to below 1"),
        ({"workers": -1}, "workers must be 0 or more"),
        ({"keep": 0}, "keep must be at least 1"),
        ({"mask_ratio": 1.0}, "mask_ratio must be"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, told):
    with pytest.raises(ConfigError, match=told):
        PretrainSettings(**wrong)


def test_a_stream_needs_an_end():
    with pytest.raises(ConfigError, match="set max_steps"):
        training_arguments(PretrainSettings(), "out", streamed=True, use_cpu=True)


# Training


def test_rows_that_no_canvas_holds_are_told_of_before_the_first_step(tmp_path, caplog):
    narrow = elmer_of(output_head="ctc", canvas_ratio=0.9, canvas_extra=0)
    none = elmer_of(output_head="ctc", canvas_ratio=0.1, canvas_extra=0)

    train(tmp_path / "some", narrow, max_steps=1, save_steps=1)
    with pytest.raises(InputError, match=r"none of the first .* rows fits its canvas; raise"):
        train(tmp_path / "none", none)

    (line,) = [each for each in caplog.messages if "canvas" in each]
    assert re.fullmatch(
        r"\d+ of the first \d+ rows do not fit their canvas and teach nothing \(raise "
        r"canvas_ratio or canvas_extra\)",
        line,
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A whole training in this process: its folder and its weights."""
    folder = tmp_path_factory.mktemp("pretraining") / "whole"
    return folder, weights_of(train(folder))


def test_the_loss_is_that_of_the_drawn_exits(tokenizer, tmp_path):
    model, plain = elmer_of(**ALONE, init_std=0.5), elmer_of(**ALONE, init_std=0.5)
    corruptor = corruptor_for(plain.config, tokenizer, noise=PretrainSettings(), seed=3)
    batch = ExerciseCollator(tokenizer)(
        [corruptor(row["input_ids"], epoch=0, row=number) for number, row in enumerate(texts(4))]
    )

    train(tmp_path / "out", model, texts(4), max_steps=1, log_steps=1, save_steps=1)

    (line,) = curve(tmp_path / "out")
    with torch.no_grad():
        drawn = float(plain(**batch).loss)
        undrawn = float(plain(**{**batch, "exits": None}).loss)
    assert line["loss"] == pytest.approx(drawn, rel=1e-5)
    assert abs(drawn - undrawn) > 1e-3


def test_gradients_are_clipped_once_a_step_however_many_batches_it_takes(tmp_path, monkeypatch):
    """And not after every one of them; fault 8 of the released code."""
    norms, clip = [], torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(
        torch.nn.utils, "clip_grad_norm_", lambda *a, **k: norms.append(clip(*a, **k)) or norms[-1]
    )

    for size in (4, 2, 1):
        model = elmer_of(**ALONE, canvas_slack=False)
        train(tmp_path / str(size), model, batch_size=size, clip=0.1, max_steps=2)

    assert len(norms) == 3 * 2
    whole = torch.stack(norms[:2])
    assert (whole > 0.1).all()  # so that there is something to clip
    for first in (2, 4):
        assert torch.allclose(torch.stack(norms[first : first + 2]), whole, rtol=1e-4)


def test_it_learns_to_undo_the_noise_and_the_result_loads(tmp_path, tokenizer):
    rows = [{"input_ids": [4 + (start + step) % 8 for step in range(12)]} for start in range(24)]
    more = {"epochs": 25.0, "save_steps": 1000, "log_steps": 10, "rows_per_step": 12}

    train(tmp_path / "out", elmer_of(**ALONE), rows, batch_size=12, held_out=rows[:8], **more)

    losses = [line["loss"] for line in curve(tmp_path / "out") if "loss" in line]
    assert losses[-1] < losses[0] - 1
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")
    text = model.generate(torch.tensor([[BOS, 4, 5, 6, 7, 8, 9, 10, 11, 4, 5, 6, 7, END]]))[0]
    assert set(text.tolist()) <= {*range(4, 12), END}


def test_held_out_rows_are_corrupted_alike_each_time(tmp_path):
    model = elmer_of(**ALONE)

    train(tmp_path / "out", model, held_out=texts(6, seed=9), learning_rate=1e-12)

    losses = [line["eval_loss"] for line in curve(tmp_path / "out") if "eval_loss" in line]
    assert len(losses) == 3
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)


def test_workers_change_neither_curve_nor_weights(undisturbed, tmp_path):
    folder, weights = undisturbed

    model = train(tmp_path / "two", workers=2)

    assert curve(tmp_path / "two") == curve(folder)
    assert all(torch.equal(each, weights[name]) for name, each in weights_of(model).items())


def test_mixed_precision_trains(tmp_path):
    asked = {"max_steps": 2, "save_steps": 1, "precision": "bfloat16", "target": run}

    with finished({"folder": str(tmp_path / "out"), **asked}) as folder:
        assert all(line["loss"] > 0 for line in curve(folder))


def test_other_heads_learn_without_exits(tmp_path):
    model = elmer_of(
        output_head="ctc", canvas_ratio=2.0, canvas_extra=8, max_position_embeddings=99
    )

    train(tmp_path / "out", model, max_steps=4)

    assert all(0 < line["loss"] < 50 for line in curve(tmp_path / "out"))


LONG = {"epochs": 8.0, "save_steps": 3, "log_steps": 2, "keep": 2, "target": run}
"""48 steps, and a checkpoint at every third."""


def wait_for(path, seconds=60):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.0005)


def steps_done(folder):
    last = last_checkpoint(folder, exits=False)
    return int(last.rpartition("-")[2]) if last else 0


def same_results(one, other):
    assert curve(one) == curve(other)
    left, right = (torch.load(f"{each}.0.pt", weights_only=True) for each in (one, other))
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("more", [{}, {STREAM: True, "max_steps": 48}])
def test_kills_at_random_moments_change_neither_curve_nor_weights(tmp_path, more):
    with finished({"folder": str(tmp_path / "whole"), **LONG, **more}) as whole:
        pass
    moments, folder, done = random.Random(0), tmp_path / "cut", []

    for _ in range(2):
        (running,) = start({"folder": str(folder), **LONG, **more})
        wait_for(folder / f"checkpoint-{steps_done(folder) + 6}")  # it is being written
        time.sleep(moments.uniform(0, 0.1))
        running.kill()
        running.join()
        done.append(steps_done(folder))
    with finished({"folder": str(folder), **LONG, **more}):
        pass

    assert 0 < done[0] < done[1] < 48, f"no kill hit the run: {done}"
    same_results(whole, folder)


@pytest.fixture
def cut(undisturbed, tmp_path):
    """The same folder as it was when the second checkpoint had just been written."""
    folder = tmp_path / "cut"
    folder.mkdir()
    shutil.copy(undisturbed[0] / "training.json", folder)
    for name in ("checkpoint-4", "checkpoint-8"):
        shutil.copytree(undisturbed[0] / name, folder / name)
    return folder


def test_it_goes_on_in_the_middle_of_an_epoch_with_the_same_bits(cut, undisturbed):
    model = train(cut, elmer_of(seed=7))

    folder, weights = undisturbed
    assert curve(cut) == curve(folder)
    assert all(torch.equal(each, weights[name]) for name, each in weights_of(model).items())


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("trainer_state.json", 0.5),
        ("config.json", 0.5),
        ("model.safetensors", 0.99),
        ("model.safetensors", None),
        ("optimizer.pt", 0.99),
        ("rng_state.pth", 0.9),
    ],
)
def test_a_checkpoint_that_was_cut_off_is_passed_over(cut, name, share):
    path = cut / "checkpoint-8" / name
    if share is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    assert not is_whole(cut / "checkpoint-8", exits=False)
    assert last_checkpoint(cut, exits=False) == str(cut / "checkpoint-4")


@pytest.mark.parametrize(
    "more", [{"learning_rate": 1e-3}, {"mask_ratio": 0.5}, {"rows": texts(20)}]
)
def test_another_training_is_refused(cut, more):
    with pytest.raises(CheckpointError, match="another training"):
        train(cut, **more)


def test_a_model_of_another_shape_is_refused(cut):
    with pytest.raises(CheckpointError, match="damaged, foreign"):
        train(cut, elmer_of(decoder_layers=2))


class FullDisk(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == 5:
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))


def disk_full(arguments):
    """Train in a process that can soon write no more, and leave what it said."""
    try:
        train(arguments["folder"], callbacks=[FullDisk()])
    except CheckpointError as error:
        with open(f"{arguments['folder']}.told", "w", encoding="utf-8") as file:
            file.write(str(error))


def test_a_full_disk_leaves_the_last_good_checkpoint_and_one_line(tmp_path):
    with finished({"folder": str(tmp_path / "out"), "target": disk_full}):
        pass

    told = (tmp_path / "out.told").read_text("utf-8")
    assert told.startswith(f"cannot write {tmp_path / 'out' / 'checkpoint-8'}")
    assert told.endswith(f"the training can go on from {tmp_path / 'out' / 'checkpoint-4'}")
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == ["checkpoint-4", "training.json"]


@pytest.mark.parametrize("streamed", [False, True])
def test_two_processes_give_the_curve_and_the_weights_of_one(tmp_path, streamed):
    common = {"model": ALONE, STREAM: streamed, "max_steps": 12, "target": run}
    one, two = tmp_path / "one", tmp_path / "two"
    rows = {"rows_per_step": 8}

    with finished({"folder": str(one), **common, **rows, "batch_size": 4}):
        pass
    with finished({"folder": str(two), **common, **rows, "batch_size": 2}, processes=2):
        pass

    for left, right in zip(curve(one), curve(two), strict=True):
        assert left == pytest.approx(right, rel=1e-5)
    first, second = (torch.load(f"{two}.{rank}.pt", weights_only=True) for rank in (0, 1))
    alone = torch.load(f"{one}.0.pt", weights_only=True)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first, alone, rtol=0, atol=1e-4)
