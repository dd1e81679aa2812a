import json
import os
import pickle
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM, Trainer, TrainingArguments

import tiny
from offramp import (
    AutoMultiExitModel,
    Contrast,
    MultiExitConfiguration,
    attach_exits,
    save_exits,
    save_published,
)
from offramp.errors import (
    CheckpointError,
    ConfigError,
    ExitNotFoundError,
    OfframpError,
    UnknownLayoutError,
)
from offramp.models.checkpoint import TABLE, TENSORS
from offramp.models.fingerprint import fingerprint_of

PROJECTIONS = ["head", "cast", "direct", "lens", "block"]


def multi_exit(family="llama", projection="lens", exits=(1, 3), **extra):
    model = attach_exits(tiny.model_of(family, **extra), exits, projection)
    with torch.no_grad():
        for parameter in model.exits.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def said(model):
    with torch.no_grad():
        return model.exit_logits(**tiny.prompt(model), exits=(1, 3, "original"))


def assert_same_bits(ours, theirs):
    assert all(torch.equal(ours[exit], theirs[exit]) for exit in ours)


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5", "bart", "gemma2"])
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_save_then_load_gives_the_same_bits(family, projection, tmp_path):
    model = multi_exit(family, projection)

    model.save_pretrained(tmp_path)

    loaded = AutoMultiExitModel.from_pretrained(tmp_path)
    assert loaded.exit_numbers == (1, 3)
    assert_same_bits(said(model), said(loaded))


def test_mixed_projections_are_kept(tmp_path):
    model = attach_exits(multi_exit(projection="head", exits=(1,)), (3,), "block")

    model.save_pretrained(tmp_path)

    loaded = AutoMultiExitModel.from_pretrained(tmp_path)
    assert [each.mode.short for each in loaded.exits.values()] == ["head", "block"]
    assert_same_bits(said(model), said(loaded))


def test_the_saved_base_is_a_plain_checkpoint(tmp_path):
    model = multi_exit()
    before = said(model)["original"]

    model.save_pretrained(tmp_path)

    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(plain).__module__.startswith("transformers.models")
    assert torch.equal(plain(**tiny.prompt(plain)).logits, before)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [
        "LlamaForCausalLM"
    ]
    assert_same_bits(said(model), {**said(model), "original": before})


def test_exits_travel_apart_from_their_base_like_an_adapter(tmp_path):
    base, exits = tmp_path / "base", tmp_path / "exits"
    tiny.model_of("llama").save_pretrained(base)
    model = AutoMultiExitModel.from_pretrained(base, MultiExitConfiguration("cast", "1;3"))

    save_exits(model, exits)

    assert sorted(os.listdir(exits)) == [TABLE, TENSORS]
    assert_same_bits(said(model), said(AutoMultiExitModel.from_pretrained(base, exits=exits)))
    assert_same_bits(said(model), said(AutoMultiExitModel.from_pretrained(exits)))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neo", "t5"])
@pytest.mark.parametrize("projection", ["head", "cast", "direct"])
def test_the_published_format_is_written_and_read(family, projection, tmp_path):
    model = multi_exit(family, projection, exits=(1, 3, 4))

    save_published(model, tmp_path)

    config = json.loads((tmp_path / "config.json").read_text())
    assert config["lm_head_layer_indices"] == [1, 3, 4]
    assert config["architectures"][0].startswith("MultiExit")
    loaded = AutoMultiExitModel.from_pretrained(
        tmp_path, MultiExitConfiguration(projection if projection == "direct" else "head")
    )
    assert_same_bits(said(model), said(loaded))


def test_the_published_format_says_what_transformers_4_reads(tmp_path):
    rope = {"rope_type": "default", "rope_theta": 123456.0}
    model = multi_exit("llama", "head", rope_parameters=rope)

    save_published(model, tmp_path)

    config = json.loads((tmp_path / "config.json").read_text())
    assert config["rope_theta"] == 123456.0
    assert config["torch_dtype"] == "float32"


def test_the_published_format_refuses_what_it_cannot_hold(tmp_path):
    with pytest.raises(ConfigError, match="use save_pretrained"):
        save_published(multi_exit("llama", "lens"), tmp_path)
    with pytest.raises(ConfigError, match="not qwen2"):
        save_published(multi_exit("qwen2", "head"), tmp_path)


def as_bin(folder, shards=1):
    """Turn a published checkpoint into ``.bin`` files, as the published models come."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(state)
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return
    where = {name: f"pytorch_model-{i % shards}.bin" for i, name in enumerate(names)}
    for file in set(where.values()):
        torch.save({name: state[name] for name in names if where[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": where})
    )


@pytest.mark.parametrize("shards", [1, 3])
def test_bin_files_and_shards_are_read(shards, tmp_path):
    model = multi_exit("gpt2", "head")
    save_published(model, tmp_path)
    as_bin(tmp_path, shards)

    assert_same_bits(said(model), said(AutoMultiExitModel.from_pretrained(tmp_path)))


def test_the_architectures_of_the_configuration_do_not_matter(tmp_path):
    model = multi_exit("gpt2", "head")
    save_published(model, tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace("MultiExitGPT2", "Whatever"))

    assert_same_bits(said(model), said(AutoMultiExitModel.from_pretrained(tmp_path)))


def test_a_plain_checkpoint_gets_fresh_exits_and_answers_as_told(tmp_path):
    tiny.model_of("llama").save_pretrained(tmp_path)

    model = AutoMultiExitModel.from_pretrained(
        tmp_path,
        multi_exit_config=MultiExitConfiguration(
            "direct",
            lm_head_layer_indices=(2, 3),
            use_original_head=False,
            contrast_layer_indices=("original", 2),
        ),
    )

    ids = tiny.prompt(model)["input_ids"]
    assert torch.equal(model(ids).logits, model(ids, decoding=Contrast(lower=2)).logits)


def test_some_of_the_exits_can_be_taken_and_others_added(tmp_path):
    model = multi_exit("llama", "lens", exits=(1, 3))
    model.save_pretrained(tmp_path)

    loaded = AutoMultiExitModel.from_pretrained(tmp_path, MultiExitConfiguration("head", (2, 3)))

    assert [each.mode.short for each in loaded.exits.values()] == ["head", "lens"]
    assert torch.equal(said(loaded)[3], said(model)[3])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_exits_follow_the_dtype_and_the_fingerprint_survives_it(dtype, tmp_path):
    multi_exit("llama", "lens").save_pretrained(tmp_path)

    model = AutoMultiExitModel.from_pretrained(tmp_path, dtype=dtype)

    assert {each.dtype for each in model.exits.parameters()} == {dtype}
    assert said(model)[1].dtype == dtype


def test_exits_lie_where_the_device_map_puts_their_block(tmp_path):
    multi_exit("llama", "block").save_pretrained(tmp_path)

    model = AutoMultiExitModel.from_pretrained(tmp_path, device_map={"": "cpu"})

    ids = tiny.prompt(model)["input_ids"]
    assert model.generate(ids, max_new_tokens=2, decoding=Contrast(lower=1)).shape[1] > 7


def test_another_base_is_refused_by_its_fingerprint(tmp_path):
    base, other, exits = (tmp_path / name for name in ("base", "other", "exits"))
    tiny.model_of("llama", seed=0).save_pretrained(base)
    tiny.model_of("llama", seed=1).save_pretrained(other)
    save_exits(AutoMultiExitModel.from_pretrained(base, MultiExitConfiguration("lens", "1")), exits)

    with pytest.raises(CheckpointError, match="made for another base"):
        AutoMultiExitModel.from_pretrained(other, exits=exits)


def test_a_slightly_fine_tuned_base_is_refused_too(tmp_path):
    model = multi_exit("llama", "lens")
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state["model.embed_tokens.weight"] *= 1.02
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(CheckpointError, match="embedding"):
        AutoMultiExitModel.from_pretrained(tmp_path)


def test_a_base_fine_tuned_in_one_matrix_alone_is_refused(tmp_path):
    multi_exit("llama", "lens").save_pretrained(tmp_path)
    edit(
        tmp_path / "model.safetensors",
        lambda state: state["model.layers.2.mlp.up_proj.weight"].mul_(1.05),
    )

    with pytest.raises(CheckpointError, match=r"layers\.2\.mlp\.up_proj"):
        AutoMultiExitModel.from_pretrained(tmp_path)


def test_the_fingerprint_reaches_the_end_of_a_large_embedding_and_not_beyond():
    model = LlamaForCausalLM(tiny.config_of("llama", vocab_size=625_001))
    weight = model.get_input_embeddings().weight
    with torch.no_grad():
        weight[-1, -1] = 5.0

    assert fingerprint_of(model)["samples"]["embedding"][-1] == 5.0


def test_another_shape_is_refused(tmp_path):
    save_exits(multi_exit("llama", "lens"), tmp_path / "exits")
    tiny.model_of("llama", num_hidden_layers=6).save_pretrained(tmp_path / "base")

    with pytest.raises(CheckpointError, match="another shape"):
        AutoMultiExitModel.from_pretrained(tmp_path / "base", exits=tmp_path / "exits")


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def foreign(path):
    path.write_bytes(b"<html>not found</html>")


@pytest.mark.parametrize("damage", [cut, foreign], ids=["cut", "foreign"])
@pytest.mark.parametrize("name", ["model.safetensors", TENSORS, TABLE, "config.json"])
def test_damaged_files_of_ours_end_in_one_line(damage, name, tmp_path):
    multi_exit("llama", "lens").save_pretrained(tmp_path)
    damage(tmp_path / name)

    with pytest.raises(OfframpError) as caught:
        AutoMultiExitModel.from_pretrained(tmp_path)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [cut, foreign], ids=["cut", "foreign"])
@pytest.mark.parametrize("binary", [False, True], ids=["safetensors", "bin"])
def test_damaged_published_files_end_in_one_line(damage, binary, tmp_path):
    save_published(multi_exit("gpt2", "head"), tmp_path)
    if binary:
        as_bin(tmp_path)
    damage(tmp_path / ("pytorch_model.bin" if binary else "model.safetensors"))

    with pytest.raises(OfframpError) as caught:
        AutoMultiExitModel.from_pretrained(tmp_path)

    assert "\n" not in str(caught.value)


class Bomb:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("raw", [False, True], ids=["torch.save", "pickle"])
def test_code_in_a_pickle_is_refused_and_not_run(raw, tmp_path):
    folder, trace = tmp_path / "model", tmp_path / "it-ran"
    save_published(multi_exit("gpt2", "head"), folder)
    state = {**load_file(folder / "model.safetensors"), "name_to_bomb": Bomb(trace)}
    (folder / "model.safetensors").unlink()
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump(state, file, protocol=2) if raw else torch.save(state, file)

    with pytest.raises(CheckpointError) as caught:
        AutoMultiExitModel.from_pretrained(folder)

    assert "\n" not in str(caught.value)
    assert not trace.exists()


def edit(path, change):
    state = load_file(path)
    change(state)
    save_file(state, path, metadata={"format": "pt"})


def test_exits_that_do_not_fit_the_base_are_refused(tmp_path):
    save_published(multi_exit("gpt2", "head"), tmp_path)
    head = "name_to_lm_exit_head.lm_head_1.weight"
    edit(tmp_path / "model.safetensors", lambda state: state.update({head: torch.ones(5, 32)}))

    with pytest.raises(CheckpointError, match=r"exit 1 .* does not fit this base"):
        AutoMultiExitModel.from_pretrained(tmp_path)


def test_a_missing_exit_is_refused(tmp_path):
    save_published(multi_exit("gpt2", "head"), tmp_path)
    head = "name_to_lm_exit_head.lm_head_1.weight"
    edit(tmp_path / "model.safetensors", lambda state: state.pop(head))

    with pytest.raises(CheckpointError, match="exit 1"):
        AutoMultiExitModel.from_pretrained(tmp_path)


def test_a_base_with_missing_weights_is_refused(tmp_path):
    tiny.model_of("llama").save_pretrained(tmp_path)
    edit(tmp_path / "model.safetensors", lambda state: state.pop("model.norm.weight"))

    with pytest.raises(CheckpointError, match=r"lacks 1 weights .*model\.norm\.weight"):
        AutoMultiExitModel.from_pretrained(tmp_path)


def test_exits_listed_without_weights_are_refused_unless_they_need_none(tmp_path):
    save_published(multi_exit("gpt2", "direct"), tmp_path)

    with pytest.raises(ConfigError, match="vocab_projection_mode='direct'"):
        AutoMultiExitModel.from_pretrained(tmp_path)


def test_a_projection_that_contradicts_the_file_is_refused(tmp_path):
    save_published(multi_exit("gpt2", "head"), tmp_path)

    with pytest.raises(ConfigError, match="contradicts the checkpoint, which holds head"):
        AutoMultiExitModel.from_pretrained(tmp_path, MultiExitConfiguration("cast"))


def test_an_exit_that_the_checkpoint_lacks_is_refused(tmp_path):
    multi_exit("llama", "lens").save_pretrained(tmp_path)
    config = MultiExitConfiguration(use_original_head=False, output_layer_index=2)

    with pytest.raises(ExitNotFoundError, match="exit 2 is not attached; attached exits: 1, 3"):
        AutoMultiExitModel.from_pretrained(tmp_path, config)


def test_a_shard_outside_the_folder_is_not_followed(tmp_path):
    save_published(multi_exit("gpt2", "head"), tmp_path)
    as_bin(tmp_path, shards=2)
    index = tmp_path / "pytorch_model.bin.index.json"
    table = json.loads(index.read_text())
    table["weight_map"] = {
        name: "../../etc/passwd" if name.startswith("name_to") else file
        for name, file in table["weight_map"].items()
    }
    index.write_text(json.dumps(table))

    with pytest.raises(OfframpError):
        AutoMultiExitModel.from_pretrained(tmp_path)


def test_no_such_model_and_no_network_is_one_line():
    with pytest.raises(CheckpointError) as caught:
        AutoMultiExitModel.from_pretrained("nobody/no-such-model")

    assert "\n" not in str(caught.value)
    assert "nobody/no-such-model" in str(caught.value)


def test_a_folder_without_exits_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no exits\.json"):
        AutoMultiExitModel.from_pretrained(tmp_path, exits=tmp_path)


def test_an_unknown_layout_is_refused_at_loading(tmp_path):
    tiny.model_of("bert", is_decoder=True).save_pretrained(tmp_path)

    with pytest.raises(UnknownLayoutError, match="Name its parts yourself"):
        AutoMultiExitModel.from_pretrained(tmp_path, MultiExitConfiguration("direct", "1"))


def test_a_full_disk_leaves_the_old_exits_and_no_half_file(tmp_path):
    model = multi_exit("llama", "head")
    save_exits(model, tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    script = (
        "import resource, signal, sys, tiny\n"
        "from offramp import attach_exits, save_exits\n"
        "model = attach_exits(tiny.model_of('llama', seed=5), (1, 2, 3), 'head')\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "save_exits(model, sys.argv[1])\n"
    )
    env = {**os.environ, "PYTHONPATH": os.path.dirname(tiny.__file__)}

    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], env=env, capture_output=True, text=True
    )

    assert "CheckpointError: cannot write exits" in done.stderr
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


@pytest.mark.filterwarnings("ignore")
def test_trainer_saves_what_loads_again(tmp_path):
    model = multi_exit("llama", "lens")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("exits."))
    base = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("exits.")}
    model.default_decoding = Contrast(lower=1)
    rows = [{"input_ids": row, "labels": row} for row in tiny.prompt(model, rows=4)["input_ids"]]
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, report_to=[], save_strategy="no", use_cpu=True
    )

    trainer = Trainer(model=model, args=arguments, train_dataset=rows)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))

    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in base.items())
    assert_same_bits(said(model), said(AutoMultiExitModel.from_pretrained(tmp_path / "saved")))
