"""ELMER is a model of transformers: saved, loaded, trained, evaluated and resized like any."""

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSeq2SeqLM,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainingArguments,
)

from models.elmer.small import HEADS, MASK, VOCAB, fresh, shared, sources, targets
from offramp.errors import ConfigError, InputError
from offramp.models.elmer import ElmerConfig, ElmerForConditionalGeneration, ElmerModel

OPTIONS = {
    **HEADS,
    "soft": {"soft_exit": True, "exit_loss": "all"},
    "soft dag": {**HEADS["dag"], "soft_exit": True},
    "length": {"length_predictor": True},
    "gates": {"gates": True},
    "glancing": {"glancing": 0.5, "canvas_start_token_id": 0},
    "glancing ctc": {**HEADS["ctc"], "glancing": 0.5},
    "glancing dag": {**HEADS["dag"], "glancing": 0.5, "exit_loss": "all"},
    "untied": {"tie_word_embeddings": False},
    "scaled": {"scale_embedding": True},
}
SOURCES, LENGTHS = [5, 2, 6, 3], [4, 2, 5, 3]


def batch_of(sources_, lengths):
    ids, mask = sources(sources_)
    return {"input_ids": ids, "attention_mask": mask, "labels": targets(lengths)}


BATCH = batch_of(SOURCES, LENGTHS)


def rows_of():
    """Give the batch as a data set."""
    return [
        {"input_ids": ids[mask > 0].tolist(), "labels": labels[labels >= 0].tolist()}
        for ids, mask, labels in zip(*BATCH.values(), strict=True)
    ]


def collated(rows):
    """Pad rows at the right."""
    sizes = [max(len(row[name]) for row in rows) for name in ("input_ids", "labels")]
    ids, labels = torch.full((len(rows), sizes[0]), 1), torch.full((len(rows), sizes[1]), -100)
    for place, row in enumerate(rows):
        ids[place, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
        labels[place, : len(row["labels"])] = torch.tensor(row["labels"])
    return {"input_ids": ids, "attention_mask": (ids != 1).long(), "labels": labels}


def test_a_held_out_loss_reads_the_scores_that_a_text_is_written_from():
    model, (ids, mask) = shared(), sources([6, 4])
    labels = torch.tensor([[7, 8, 2, -100], [9, 2, -100, -100]])

    with torch.no_grad():
        measured, written = model(ids, mask, labels=labels), model(ids, mask)

    assert torch.equal(measured.logits, written.logits)


@pytest.mark.parametrize("name", OPTIONS)
def test_what_is_saved_loads_as_the_same_to_the_bit(tmp_path, name):
    model = fresh(**OPTIONS[name])
    for gate in model.gates.values() if "gates" in name else ():
        gate.threshold.fill_(0.25)
    model.save_pretrained(tmp_path)

    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, dtype=torch.float64).eval()

    assert type(loaded) is ElmerForConditionalGeneration
    known = loaded.state_dict()
    assert list(known) == list(model.state_dict())
    for key, tensor in model.state_dict().items():
        assert torch.equal(known[key], tensor), key
    assert torch.equal(loaded(**BATCH).logits, model(**BATCH).logits)
    assert torch.equal(loaded.generate(*sources([5, 2])), model.generate(*sources([5, 2])))
    assert [file.name for file in tmp_path.glob("*.bin")] == []
    inner, tied = loaded.model, name != "untied"
    assert (loaded.lm_head.weight is inner.shared.weight) == tied
    assert (inner.encoder.embed_tokens.weight is inner.shared.weight) == tied
    assert inner.decoder.embed_tokens is inner.shared


def test_the_auto_classes_know_it(tmp_path):
    shared().save_pretrained(tmp_path)

    assert type(AutoConfig.from_pretrained(tmp_path)) is ElmerConfig
    assert type(AutoModel.from_pretrained(tmp_path)) is ElmerModel
    assert type(AutoModelForSeq2SeqLM.from_config(shared().config)) is (
        ElmerForConditionalGeneration
    )


def test_new_gates_are_undecided_and_never_leave():
    torch.manual_seed(0)
    model = ElmerForConditionalGeneration(shared(gates=True).config)

    assert list(model.gates) == ["1", "2", "3"]
    for gate in model.gates.values():
        confidence = gate.confidence(torch.randn(5, 16))
        assert confidence.tolist() == [0.5] * 5
        assert not gate.leaves(confidence).any()


def test_gates_can_be_put_on_a_trained_model(tmp_path):
    plain = fresh()
    plain.save_pretrained(tmp_path)

    model = ElmerForConditionalGeneration.from_pretrained(
        tmp_path, gates=True, dtype=torch.float64
    ).eval()

    assert torch.equal(model(**BATCH).logits, plain(**BATCH).logits)
    assert model.gates["2"].confidence(torch.randn(5, 16)).tolist() == [0.5] * 5
    assert not any(gate.leaves(torch.tensor(1.0)) for gate in model.gates.values())


def test_fields_given_when_loading_are_checked_as_well(tmp_path):
    shared().save_pretrained(tmp_path)
    load = ElmerForConditionalGeneration.from_pretrained

    assert load(tmp_path, output_head="ctc", glancing=0.5).config.glancing == 0.5
    for wrong in ({"output_head": "tree"}, {"glancing": 5.0}, {"canvas_ratio": -1.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            load(tmp_path, **wrong)


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "untied"])
def test_gradient_checkpointing_changes_no_gradient(name):
    model = fresh(**OPTIONS[name], attention_dropout=0.1).train()

    def gradients():
        torch.manual_seed(0)
        model.zero_grad()
        model(**BATCH).loss.backward()
        return {
            key: parameter.grad.clone()
            for key, parameter in model.named_parameters()
            if parameter.grad is not None
        }

    plain = gradients()
    model.activation_checkpointing_enable()
    checkpointed = gradients()

    assert len(plain) > 100
    assert plain.keys() == checkpointed.keys()
    for key, gradient in plain.items():
        assert torch.allclose(gradient, checkpointed[key], atol=1e-10), key


@pytest.mark.parametrize("name", ["plain", "ctc", "dag", "soft"])
def test_eager_attention_gives_what_sdpa_gives(name):
    outputs = []
    for attention in ("eager", "sdpa"):
        model = fresh(**OPTIONS[name], attn_implementation=attention)
        assert model.model.decoder.config._attn_implementation == attention
        outputs.append((model(**BATCH), model.generate(*sources(SOURCES))))

    (eager, texts), (sdpa, others) = outputs

    assert torch.allclose(eager.logits, sdpa.logits, atol=1e-9)
    assert torch.allclose(eager.loss, sdpa.loss, atol=1e-5)
    assert torch.equal(texts, others)


@pytest.mark.parametrize("name", HEADS)
def test_a_smaller_dtype_trains_and_writes(name):
    model = fresh(**OPTIONS[name], soft_exit=True).bfloat16().train()

    loss = model(**BATCH).loss
    loss.backward()
    texts = model.eval().generate(*sources(SOURCES))

    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert len(texts) == 4


@pytest.mark.parametrize("size", [VOCAB + 5, VOCAB])
def test_the_vocabulary_can_grow_and_the_mask_stays(size, tmp_path):
    model = fresh().float()
    before = model(**BATCH).logits

    model.resize_token_embeddings(size, mean_resizing=False)

    after = model(**BATCH).logits
    assert after.shape[-1] == model.config.vocab_size == size
    assert torch.allclose(after[..., :VOCAB], before, atol=1e-5)
    assert model.config.mask_token_id == MASK
    assert model.lm_head.weight is model.model.shared.weight
    model.save_pretrained(tmp_path)
    loaded = ElmerForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(**BATCH).logits, after)
    assert model.generate(*sources([5, 2])).shape[0] == 2


def test_a_vocabulary_without_the_mask_is_refused():
    with pytest.raises(ConfigError, match=f"lacks the mask token {MASK}"):
        fresh().resize_token_embeddings(MASK)


def test_it_gives_tuples_where_they_are_asked_for():
    model = shared()

    loss, logits, *_ = model(**BATCH, return_dict=False)

    output = model(**BATCH)
    assert list(output)[:2] == ["loss", "logits"]
    assert torch.equal(loss, output.loss)
    assert torch.equal(logits, output.logits)


def arguments(tmp_path, kind=TrainingArguments, **more):
    return kind(
        output_dir=str(tmp_path),
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        **{"max_steps": 2, "per_device_train_batch_size": 2, **more},
    )


@pytest.mark.parametrize("name", ["plain", "ctc", "dag", "soft", "length", "glancing"])
def test_a_trainer_trains_it(tmp_path, name):
    model = fresh(**OPTIONS[name]).float()
    before = model.model.decoder.layers[0].fc1.weight.clone()
    trainer = Trainer(
        model,
        arguments(tmp_path, learning_rate=1e-2, gradient_accumulation_steps=2),
        train_dataset=rows_of(),
        data_collator=collated,
    )

    result = trainer.train()

    assert result.global_step == 2
    assert 0 < result.training_loss < 20
    assert not torch.equal(model.model.decoder.layers[0].fc1.weight, before)
    trainer.save_model(tmp_path / "saved")
    loaded = ElmerForConditionalGeneration.from_pretrained(tmp_path / "saved").eval()
    assert torch.equal(loaded(**BATCH).logits, model.eval()(**BATCH).logits)


def with_exits(rows):
    """Let canvases have just their targets' lengths: what is drawn would differ otherwise."""
    batch = collated(rows)
    return {**batch, "exits": 4 * (batch["labels"] != -100)}


@pytest.mark.parametrize(("name", "collate"), [("plain", with_exits), ("ctc", collated)])
def test_a_trainer_weighs_the_tokens_of_micro_batches_as_those_of_one(tmp_path, name, collate):
    weights = []
    for rows, steps in ((4, 1), (1, 4)):
        model = fresh(**OPTIONS[name]).float()
        before = model.model.decoder.layers[1].fc1.weight.detach().clone()
        options = {
            "max_steps": 1,
            "optim": "sgd",
            "max_grad_norm": 0.0,
            "learning_rate": 1.0,
            "per_device_train_batch_size": rows,
            "gradient_accumulation_steps": steps,
        }
        Trainer(
            model,
            arguments(tmp_path, **options),
            train_dataset=rows_of(),
            data_collator=collate,
        ).train()
        weights.append(model.model.decoder.layers[1].fc1.weight.detach())

    assert torch.allclose(*weights, atol=1e-5)
    assert not torch.allclose(weights[0], before, atol=1e-3)


@pytest.mark.parametrize("name", ["plain", "dag", "length"])
def test_a_trainer_measures_scores_of_batches_of_several_sizes(tmp_path, name):
    seen = []

    def measure(prediction):
        seen.append(prediction.predictions)
        return {"rows": len(prediction.predictions)}

    trainer = Trainer(
        fresh(**OPTIONS[name]).float(),
        arguments(tmp_path, per_device_eval_batch_size=2),
        eval_dataset=rows_of(),
        data_collator=collated,
        compute_metrics=measure,
    )

    found = trainer.evaluate()

    assert found["eval_rows"] == 4
    assert found["eval_loss"] > 0
    assert seen[0].shape[0] == 4
    assert seen[0].shape[2] == VOCAB


@pytest.mark.parametrize("name", ["plain", "ctc", "dag"])
def test_a_sequence_trainer_measures_written_texts(tmp_path, name, byte_tokenizer):
    model, seen = fresh(**OPTIONS[name]).float(), []

    def measure(prediction):
        seen.append(prediction.predictions)
        return {"rows": len(prediction.predictions)}

    byte_tokenizer.pad_token_id = 1
    trainer = Seq2SeqTrainer(
        model,
        arguments(
            tmp_path,
            Seq2SeqTrainingArguments,
            predict_with_generate=True,
            per_device_eval_batch_size=3,
            generation_num_beams=1,
        ),
        eval_dataset=rows_of(),
        data_collator=collated,
        compute_metrics=measure,
        processing_class=byte_tokenizer,
    )

    for limit in ({}, {"max_length": 4}, {"max_new_tokens": 4}):
        trainer.evaluate(**limit)

    wanted = model.generate(BATCH["input_ids"][:3], BATCH["attention_mask"][:3])
    for row, text in enumerate(wanted.tolist()):
        assert [token for token in seen[0][row].tolist() if token not in (1, -100)] == [
            token for token in text if token != 1
        ]
    for cut in seen[1:]:
        assert ((cut[:, 4:] == 1) | (cut[:, 4:] == -100)).all()


def test_what_comes_in_another_shape_than_it_may_is_refused():
    model = shared()

    with pytest.raises(InputError, match="labels must be padded at the right"):
        model(**{**BATCH, "labels": BATCH["labels"].flip(-1)})
    with pytest.raises(InputError, match="label 40 is no token"):
        model(**{**BATCH, "labels": BATCH["labels"].clamp(min=VOCAB)})
    with pytest.raises(ConfigError, match="exits needs labels"):
        model(BATCH["input_ids"], exits=torch.ones(4, 5).long())
    with pytest.raises(ConfigError, match="exits needs labels and output_head 'plain'"):
        shared(**HEADS["ctc"])(**BATCH, exits=torch.ones_like(BATCH["labels"]))
    with pytest.raises(InputError, match="exits must be from 1 to 4, got 5"):
        model(**BATCH, exits=torch.full_like(BATCH["labels"], 5))
