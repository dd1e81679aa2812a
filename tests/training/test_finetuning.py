"""Fine-tuning on pairs: it learns, goes on where it stopped, and keeps the best."""

import os

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import processors
from torch.nn.functional import cross_entropy
from transformers import BartConfig, BartForConditionalGeneration, TrainerCallback

from offramp.errors import CheckpointError, ConfigError, InputError
from offramp.models.elmer import ElmerConfig, ElmerForConditionalGeneration
from offramp.training import finetuning
from offramp.training.finetuning import finetune
from offramp.training.finetuning_settings import FinetuneSettings
from offramp.training.pairs import Pair, pairs_of, tokenised
from small_pretraining import elmer_of, tokenizer_of
from small_training import curve, finished, weights_of

WORDS = ["ab", "ba", "abb", "bab", "aab", "bba", "abab", "b"]
PAIRS = [Pair(word, (word[::-1],)) for word in WORDS]
SIZES = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 32,
    "dropout": 0.0,
    "init_std": 0.1,
}


@pytest.fixture
def tokenizer(byte_tokenizer):
    """Bytes with an end token, as sequence pairs need it."""
    end = byte_tokenizer.eos_token_id
    byte_tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", end)]
    )
    byte_tokenizer.padding_side = "right"
    return byte_tokenizer


def model_of(tokenizer, kind):
    torch.manual_seed(0)
    ids = {
        "vocab_size": len(tokenizer) + 1,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.eos_token_id,
        "forced_eos_token_id": None,
    }
    if kind == "bart":
        return BartForConditionalGeneration(BartConfig(**SIZES, **ids))
    more = {"canvas_ratio": 1.0, "canvas_extra": 4, "output_head": kind}
    return ElmerForConditionalGeneration(ElmerConfig(**SIZES, **ids, **more))


def exact(texts, references):
    right = sum(text in each for text, each in zip(texts, references, strict=True))
    return {"exact": right / len(texts)}


def settings_of(**more):
    given = {"learning_rate": 5e-3, "max_steps": 6, "batch_size": 8, "eval_steps": 3, "seed": 1}
    return FinetuneSettings(**{**given, "max_target": 8, "log_steps": 3, **more})


def trained(
    tokenizer, output, *, kind="plain", pairs=PAIRS, held_out=None, metrics=None, **settings
):
    return finetune(
        model_of(tokenizer, kind),
        tokenizer,
        pairs=pairs,
        held_out=pairs if held_out is None else held_out,
        output=output,
        settings=settings_of(**settings),
        metrics=metrics,
        disable_tqdm=True,
    )


@pytest.mark.parametrize("kind", ["plain", "ctc", "dag", "bart"])
def test_pairs_are_learned_by_heart(tmp_path, tokenizer, kind):
    settings = {"max_steps": 200, "eval_steps": 200, "metric": "exact", "schedule": "constant"}

    trainer = trained(tokenizer, tmp_path, kind=kind, metrics=exact, **settings)

    assert trainer.state.best_metric == 1.0
    assert trainer.write(["abb", "ba"]) == ["bba", "ab"]


def test_the_best_weights_are_kept_and_not_the_last(tmp_path, tokenizer):
    answers = iter([0.9, 0.1])

    trainer = trained(
        tokenizer,
        tmp_path,
        metric="judged",
        metrics=lambda texts, references: {"judged": next(answers)},
    )

    best = load_file(tmp_path / "checkpoint-3" / "model.safetensors")
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-3")
    for name, weight in best.items():
        assert torch.equal(trainer.model.state_dict()[name], weight), name


def test_the_best_weights_come_back_without_a_word(tmp_path, tokenizer, monkeypatch):
    said = []
    monkeypatch.setattr("transformers.trainer.logger.warning", said.append)

    trained(tokenizer, tmp_path, metrics=exact, metric="exact")

    assert said == []


def test_the_tokenizer_stays_as_it_was(tmp_path, tokenizer):
    before = tokenizer.backend_tokenizer.to_str()

    trained(tokenizer, tmp_path, metrics=exact, metric="exact", max_source=3)

    assert tokenizer.backend_tokenizer.to_str() == before


def test_texts_are_written_for_pairs_from_everywhere_in_the_file(tmp_path, tokenizer):
    held_out = [Pair("a", (str(number),)) for number in range(10)]
    judged = []

    trained(
        tokenizer,
        tmp_path,
        held_out=held_out,
        metrics=lambda texts, references: judged.extend(references) or {"judged": 0.0},
        metric="judged",
        max_steps=3,
        eval_rows=4,
    )

    assert [text for (text,) in judged] == ["0", "2", "5", "7"]


def test_references_do_not_reach_the_texts(tmp_path, tokenizer):
    model, seen = model_of(tokenizer, "plain"), []

    def keep(texts, references):
        seen.append(texts)
        return {"judged": 0.0}

    for targets in (("x",), ("a much longer one",)):
        finetune(
            model,
            tokenizer,
            pairs=PAIRS,
            held_out=[Pair(each.source, targets) for each in PAIRS],
            output=tmp_path / targets[0],
            settings=settings_of(max_steps=1, eval_steps=1, learning_rate=1e-12, max_target=32),
            metrics=keep,
            disable_tqdm=True,
        )

    assert seen[0] == seen[1]


def test_a_stopped_training_gives_the_weights_of_one_that_was_not(tmp_path, tokenizer):
    def train(folder):
        return trained(tokenizer, folder, batch_size=4, max_steps=6)

    whole = train(tmp_path / "whole")

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 5:
                raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        made = finetuning.PairTrainer.__init__

        def init(self, *args, **named):
            made(self, *args, **named)
            self.add_callback(Stop())

        patch.setattr(finetuning.PairTrainer, "__init__", init)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "stopped")
    resumed = train(tmp_path / "stopped")

    assert resumed.state.global_step == 6
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], weight), name


def divided(arguments):
    """Fine-tune, in one process of several or alone, and leave the weights beside the folder."""
    model, folder = elmer_of(**arguments["model"], dropout=0.0), arguments["folder"]
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, 9, (56,), generator=generator).tolist()
    pairs = [Pair("ab" * size, ("ba" * size,)) for size in sizes]
    trainer = finetune(
        model,
        tokenizer_of(),
        pairs=pairs,
        held_out=pairs[:8],
        output=folder,
        settings=settings_of(**arguments["settings"], max_target=64, metric="exact"),
        metrics=exact,
        use_cpu=True,
        disable_tqdm=True,
    )
    torch.save(weights_of(trainer.model), f"{folder}.{os.environ.get('RANK', 0)}.pt")


def test_two_processes_give_the_curve_and_the_weights_of_one(tmp_path):
    """Without dropout and a plain head's canvas, which each process draws for itself."""
    model = {"output_head": "ctc", "canvas_ratio": 2.0}
    common = {"max_steps": 10, "eval_steps": 5, "log_steps": 1}

    for name, size, processes in (("one", 8, 1), ("two", 4, 2)):
        settings = {**common, "batch_size": size}
        asked = {"folder": str(tmp_path / name), "model": model, "settings": settings}
        with finished({**asked, "target": divided}, processes):
            pass

    one, two, second = (
        torch.load(tmp_path / name, weights_only=True)
        for name in ("one.0.pt", "two.0.pt", "two.1.pt")
    )
    for left, right in zip(curve(tmp_path / "one"), curve(tmp_path / "two"), strict=True):
        assert left == pytest.approx(right, rel=1e-4)
    torch.testing.assert_close(two, second, rtol=0, atol=0)
    torch.testing.assert_close(one, two, rtol=0, atol=1e-4)


def test_another_training_in_the_same_folder_is_refused(tmp_path, tokenizer):
    trained(tokenizer, tmp_path, max_steps=3, seed=1)
    with pytest.raises(CheckpointError, match="another training: its seed is 1, not 2"):
        trained(tokenizer, tmp_path, max_steps=3, seed=2)


@pytest.mark.parametrize("changed", ["pairs", "held_out", "config"])
def test_other_texts_or_another_kind_of_model_are_another_training(tmp_path, tokenizer, changed):
    others = {
        "pairs": {"pairs": PAIRS[::-1], "held_out": PAIRS},
        "held_out": {"held_out": PAIRS[::-1]},
        "config": {"kind": "ctc"},
    }

    trained(tokenizer, tmp_path, max_steps=3)
    with pytest.raises(CheckpointError, match=f"another training: its {changed} is "):
        trained(tokenizer, tmp_path, max_steps=3, **others[changed])


def test_a_model_that_was_saved_meanwhile_goes_on(tmp_path, tokenizer):
    model = model_of(tokenizer, "plain")
    for _ in range(2):  # as a cell of a notebook that is run again
        trainer = finetune(
            model,
            tokenizer,
            pairs=PAIRS,
            held_out=PAIRS,
            output=tmp_path,
            settings=settings_of(max_steps=3),
            disable_tqdm=True,
        )

    assert trainer.state.global_step == 3


@pytest.mark.parametrize("kind", ["plain", "bart"])
def test_texts_are_written_from_sources_cut_as_in_the_training(tmp_path, tokenizer, kind):
    long = [*PAIRS, Pair("ab" * 40, ("ba",))]  # 81 tokens, the model knows 32

    settings = {"max_steps": 3, "max_source": 256}
    trainer = trained(tokenizer, tmp_path, kind=kind, pairs=long, metrics=exact, **settings)

    assert trainer.write(["ab" * 40]) == trainer.write(["ab" * 20])


@pytest.mark.parametrize("kind", ["plain", "ctc", "dag"])
def test_texts_are_written_on_the_canvases_that_users_get(tmp_path, tokenizer, kind):
    trainer = trained(tokenizer, tmp_path, kind=kind, metrics=exact, max_steps=3, max_target=6)
    source = tokenizer("ab" * 6, return_tensors="pt")["input_ids"]  # 13 tokens: 17 places, not 6
    given = trainer.model.generate(source)

    (text,) = trainer.write(["ab" * 6])

    assert text == tokenizer.decode(given[0], skip_special_tokens=True)
    assert trainer._generate == {}


def test_no_improvement_ends_the_training(tmp_path, tokenizer):
    settings = {"max_steps": 30, "eval_steps": 2, "metric": "judged", "patience": 2}
    trainer = trained(
        tokenizer, tmp_path, metrics=lambda texts, references: {"judged": 0.0}, **settings
    )

    assert trainer.state.global_step == 6


def test_long_targets_are_left_out_and_counted(tokenizer):
    pairs = [Pair("a", ("b",)), Pair("a", ("b" * 50,))]
    rows, lost = tokenised(pairs, tokenizer, settings_of())

    assert len(rows) == 1
    assert lost == (
        "1 of 2 pairs left out: 1 with a target of more than 8 tokens (raise max_target)"
    )
    assert tokenised(pairs[:1], tokenizer, settings_of())[1] == ""
    with pytest.raises(InputError, match="2 of 2 pairs left out: 2 with a target of more than 8"):
        tokenised(pairs[1:] * 2, tokenizer, settings_of())


def test_long_sources_are_cut_and_counted(tokenizer):
    pairs = [Pair("a" * size, ("b",)) for size in (8, 9, 10, 50)]  # and an end token

    rows, told = tokenised(pairs, tokenizer, settings_of(max_source=10), name="held-out pairs")

    assert [len(row["input_ids"]) for row in rows] == [9, 10, 10, 10]
    assert told == (
        "2 of 4 held-out pairs with a source of more than 10 tokens, which is cut (raise "
        "max_source)"
    )
    assert tokenised(pairs[:2], tokenizer, settings_of(max_source=10))[1] == ""


@pytest.mark.parametrize("max_source", [32, 256])
def test_of_sources_that_are_longer_than_the_model_it_is_told_that_it_reads_no_more(
    tmp_path, tokenizer, caplog, max_source
):
    pairs = [*PAIRS, Pair("ab" * 40, ("ba",))]

    trained(tokenizer, tmp_path, pairs=pairs, max_source=max_source, max_steps=3)

    assert caplog.messages == [
        f"1 of 9 {name} with a source of more than 32 tokens, which is cut (the model reads no "
        "more)"
        for name in ("pairs", "held-out pairs")
    ]


@pytest.mark.parametrize("kind", ["ctc", "dag"])
def test_targets_that_no_canvas_holds_are_left_out_and_named(tmp_path, tokenizer, kind, caplog):
    pairs = [*PAIRS, Pair("a", ("bbbbbbb",))]  # 2 + 4 places

    settings = {"batch_size": 1, "max_steps": 20, "eval_steps": 20}
    trained(tokenizer, tmp_path, kind=kind, pairs=pairs, **settings)

    fault = "1 with a target that does not fit its canvas (raise canvas_ratio or canvas_extra)"
    assert caplog.messages == [
        f"1 of 9 pairs left out: {fault}",
        f"1 of 9 held-out pairs left out: {fault}",
    ]


def test_targets_that_a_text_has_no_room_for_are_learned_and_told(tokenizer):
    config = model_of(tokenizer, "plain").config
    pairs = [*PAIRS, Pair("a", ("bbbbbbb",))]  # 2 + 4 places, the target has 8

    rows, told = tokenised(pairs, tokenizer, settings_of(), config=config)

    assert len(rows) == 9
    assert told == (
        "1 of 9 pairs with a target longer than the canvas that its source gives, where the text "
        "will be cut (raise canvas_ratio or canvas_extra)"
    )
    config.length_predictor = True
    assert tokenised(pairs, tokenizer, settings_of(), config=config)[1] == ""


@pytest.mark.parametrize("accumulate", [1, 3])
def test_gradients_are_clipped_once_a_step(tmp_path, tokenizer, accumulate, monkeypatch):
    """Not after every part of one; fault 8 of the released code."""
    clips, clip = [], torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(
        torch.nn.utils, "clip_grad_norm_", lambda *a, **k: clips.append(1) or clip(*a, **k)
    )

    trained(tokenizer, tmp_path, batch_size=2, accumulate=accumulate, max_steps=2, eval_steps=2)

    assert len(clips) == 2


def test_a_row_without_a_target_is_named():
    rows = [("a.jsonl, line 1", {"source": "a", "target": "b", "targets": ["c", "b"]})]
    assert pairs_of(iter(rows)) == [Pair("a", ("b", "c"))]

    bad = [*rows, ("a.jsonl, line 2", {"source": "a", "answer": "b"})]
    with pytest.raises(InputError, match=r"a.jsonl, line 2: .* found columns answer, source"):
        pairs_of(iter(bad))
    with pytest.raises(InputError, match="no pairs"):
        pairs_of(iter([]))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"warmup": 1.0}, "warmup must be from 0 to below 1"),
        ({"learning_rate": 0.0}, "above 0"),
        ({"patience": -1}, "patience must be 0 or more"),
    ],
)
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        FinetuneSettings(**setting)


def test_label_smoothing_is_spread_over_a_target_as_it_is_shown(tmp_path, tokenizer):
    """The model reads the target, moved on by one, and not the source."""
    share = 0.1
    model = model_of(tokenizer, "bart")
    row = {"return_tensors": "pt", "padding": True}
    sources = tokenizer([each.source for each in PAIRS], **row)
    labels = tokenizer([each.targets[0] for each in PAIRS], **row)
    ids = labels["input_ids"].masked_fill(labels["attention_mask"] == 0, -100)
    logits = model(**sources, labels=ids).logits
    expected = cross_entropy(logits.flatten(0, 1), ids.flatten(), label_smoothing=share)

    trainer = trained(
        tokenizer, tmp_path, kind="bart", max_steps=1, eval_steps=1, label_smoothing=share
    )

    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_label_smoothing_is_refused_for_elmer(tmp_path, tokenizer):
    with pytest.raises(ConfigError, match="label_smoothing"):
        finetune(
            model_of(tokenizer, "plain"),
            tokenizer,
            pairs=PAIRS,
            held_out=PAIRS,
            output=tmp_path,
            settings=settings_of(label_smoothing=0.1),
        )
