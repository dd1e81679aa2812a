import copy
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, TorchAoConfig

import tiny
from offramp import AutoMultiExitModel, FixedExit, attach_exits, export_exit
from offramp.blocks.anatomy import CHECKED
from offramp.errors import CheckpointError, ConfigError, ExitNotFoundError
from offramp.models import export
from offramp.models.export_folder import CONFIG, MARK, STAGE

GENERATION = "generation_config.json"
FOLDABLE = ["direct", "head", "cast", "block"]


def trained(family="llama", projection="cast", exits=(1, 2, 3), *, seed=0, **extra):
    model = attach_exits(tiny.model_of(family, seed=seed, **extra), exits, projection)
    with torch.no_grad():
        for parameter in model.exits.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def plain(folder):
    """Load it as somebody who has never heard of offramp."""
    seq2seq = "decoder_start_token_id" in (folder / "generation_config.json").read_text() and (
        json.loads((folder / CONFIG).read_text())["model_type"] in tiny.SEQ2SEQ
    )
    auto = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
    model, told = auto.from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    return model.eval()


@torch.no_grad()
def assert_says_what_the_exit_says(model, exit, exported, *, bits=False):
    inputs = tiny.prompt(model, length=2 * tiny.WINDOW)
    told, own = exported(**inputs).logits, model(**inputs, decoding=FixedExit(exit=exit)).logits
    torch.testing.assert_close(told, own, rtol=1e-4, atol=1e-4)
    assert torch.equal(told, own) or not bits


@pytest.mark.parametrize("projection", FOLDABLE)
@pytest.mark.parametrize("family", sorted(CHECKED))
def test_the_export_says_what_the_exit_says(family, projection, tmp_path):
    model = trained(family, projection, (2,))

    export_exit(model, tmp_path, exit=2)

    exported = plain(tmp_path)
    assert type(exported) is type(model).base_class
    assert_says_what_the_exit_says(model, 2, exported, bits=projection != "cast")


DEPTHS = {
    "llama": "num_hidden_layers",
    "qwen2": "num_hidden_layers",
    "mistral": "num_hidden_layers",
    "phi": "num_hidden_layers",
    "gpt2": "num_hidden_layers",
    "bart": "decoder_layers",
}


def written(folder):
    """What another engine's loader reads: names, shapes and types of tensors, and all settings."""
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        cuts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        tensors = {name: (cut.get_shape(), cut.get_dtype()) for name, cut in cuts.items()}
        metadata = file.metadata()
    texts = {name: json.loads((folder / name).read_text()) for name in (CONFIG, GENERATION)}
    return {"tensors": tensors, "metadata": metadata, **texts}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("projection", FOLDABLE)
@pytest.mark.parametrize("family", sorted(DEPTHS))
def test_every_field_is_what_transformers_writes_of_a_model_so_deep(
    family, projection, tied, tmp_path
):
    blocks = 3 if projection == "block" else 2
    still = tied and projection in ("direct", "block")
    depth = {DEPTHS[family]: blocks, "tie_word_embeddings": still}
    if "layer_types" in tiny.config_of(family).to_dict():
        depth["layer_types"] = tiny.config_of(family).layer_types[:blocks]
    tiny.model_of(family, **depth).save_pretrained(tmp_path / "plain")

    export_exit(
        trained(family, projection, (2,), tie_word_embeddings=tied), tmp_path / "draft", exit=2
    )

    assert written(tmp_path / "draft") == written(tmp_path / "plain")
    told = {*os.listdir(tmp_path / "draft")}
    assert told == {*os.listdir(tmp_path / "plain"), MARK}


@settings(max_examples=12, phases=[Phase.generate])
@given(
    family=st.sampled_from(["llama", "gpt2", "gemma2", "smollm3"]),
    projection=st.sampled_from(FOLDABLE),
    exit=st.integers(1, tiny.DEPTH),
    tied=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_exit_of_any_base_does(family, projection, exit, tied, seed):
    model = trained(family, projection, (exit,), seed=seed, tie_word_embeddings=tied)

    with tempfile.TemporaryDirectory() as folder:
        about = export_exit(model, folder, exit=exit)

        exported = plain(Path(folder))
        assert_says_what_the_exit_says(model, exit, exported, bits=projection != "cast")
        assert exported.config.num_hidden_layers == about.blocks
        assert about.parameters == exported.num_parameters()


@pytest.mark.parametrize("family", ["llama", "gpt2", "bart"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("projection", FOLDABLE)
def test_only_a_folded_head_is_untied(family, tied, projection, tmp_path):
    export_exit(trained(family, projection, tie_word_embeddings=tied), tmp_path, exit=2)

    exported = plain(tmp_path)
    still = tied and projection in ("direct", "block")
    head, embeddings = exported.get_output_embeddings(), exported.get_input_embeddings()
    assert exported.config.tie_word_embeddings is still
    assert (head.weight is embeddings.weight) is still


def test_embeddings_that_encoder_and_decoder_share_are_all_there(tmp_path):
    model = trained("bart", "head", tie_word_embeddings=True)

    export_exit(model, tmp_path, exit=1)

    inner = plain(tmp_path).model
    for part in (inner.shared, inner.encoder.embed_tokens, inner.decoder.embed_tokens):
        assert torch.equal(part.weight, model.model.shared.weight)


def test_a_head_of_its_own_has_no_bias_where_the_family_has_one(tmp_path):
    model = trained("phi", "head")

    export_exit(model, tmp_path, exit=2)

    assert model.lm_head.bias.abs().sum() > 0
    assert plain(tmp_path).lm_head.bias.abs().sum() == 0


def test_block_zero_can_be_an_extra_block(tmp_path):
    model = trained("llama", "block", (0,))

    assert export_exit(model, tmp_path, exit=0).blocks == 1

    assert_says_what_the_exit_says(model, 0, plain(tmp_path), bits=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("projection", FOLDABLE)
def test_the_dtype_is_kept(projection, dtype, tmp_path):
    model = trained("llama", projection).to(dtype)

    about = export_exit(model, tmp_path, exit=2)

    assert {each.dtype for each in plain(tmp_path).parameters()} == {dtype}
    assert json.loads((tmp_path / CONFIG).read_text())["dtype"] == about.dtype
    assert {each.dtype for each in load_file(tmp_path / "model.safetensors").values()} == {dtype}


def test_the_generation_configuration_is_kept(tmp_path):
    model = trained()
    model.generation_config.update(do_sample=True, temperature=0.3, eos_token_id=[2, 7])

    export_exit(model, tmp_path, exit=2)

    kept = plain(tmp_path).generation_config
    assert (kept.do_sample, kept.temperature, kept.eos_token_id) == (True, 0.3, [2, 7])


@pytest.mark.parametrize("projection", FOLDABLE)
def test_the_export_is_an_assistant_that_changes_no_token(projection, tmp_path):
    tiny.model_of("llama").save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    export_exit(trained("llama", projection), tmp_path / "draft", exit=3)
    draft = plain(tmp_path / "draft")
    ids = tiny.prompt(base, rows=1)["input_ids"]
    calls = []
    draft.register_forward_hook(lambda *_: calls.append(1))

    greedy = base.generate(ids, max_new_tokens=20, do_sample=False)
    assisted = base.generate(ids, max_new_tokens=20, do_sample=False, assistant_model=draft)

    assert assisted.tolist() == greedy.tolist()
    assert calls


def test_an_encoder_decoders_export_is_its_assistant_too(tmp_path):
    tiny.model_of("t5").save_pretrained(tmp_path / "base")
    base = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "base").eval()
    export_exit(trained("t5", "cast"), tmp_path / "draft", exit=3)
    ids = tiny.prompt(base, rows=1)["input_ids"]

    greedy = base.generate(ids, max_new_tokens=20, do_sample=False)
    assisted = base.generate(
        ids, max_new_tokens=20, do_sample=False, assistant_model=plain(tmp_path / "draft")
    )

    assert assisted.tolist() == greedy.tolist()


def test_the_model_is_left_as_it_was(tmp_path):
    model = trained("llama", "head").train()
    config, state = model.config.to_dict(), copy.deepcopy(model.state_dict())

    export_exit(model, tmp_path, exit=2)

    assert model.training
    assert model.config.to_dict() == config
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(state[name], each) for name, each in model.state_dict().items())


def test_an_export_can_have_exits_and_be_cut_again(tmp_path):
    export_exit(trained("llama", "cast"), tmp_path / "three", exit=3)
    model = attach_exits(AutoMultiExitModel.from_pretrained(tmp_path / "three"), (1,))

    export_exit(model, tmp_path / "one", exit=1)

    assert_says_what_the_exit_says(model, 1, plain(tmp_path / "one"), bits=True)


def test_the_folder_says_what_was_exported(tmp_path):
    tiny.model_of("llama").save_pretrained(tmp_path / "base")
    model = attach_exits(AutoMultiExitModel.from_pretrained(tmp_path / "base"), (2,), "block")

    export_exit(model, tmp_path / "draft", exit=2)

    told = json.loads((tmp_path / "draft" / MARK).read_text())
    names = ("base", "exit", "projection", "blocks", "base_blocks")
    assert [told[name] for name in names] == [str(tmp_path / "base"), 2, "block", 3, 4]
    assert sorted([*told["files"], MARK]) == sorted(os.listdir(tmp_path / "draft"))


def test_a_lens_is_refused_and_what_can_be_exported_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"'lens'.*direct, head, cast and block"):
        export_exit(trained("llama", "lens"), tmp_path / "draft", exit=2)

    assert not (tmp_path / "draft").exists()


def test_exits_that_are_no_model_are_refused(tmp_path):
    model = trained("llama", "direct", (0, 2))

    with pytest.raises(ConfigError, match="exit 0 has no blocks"):
        export_exit(model, tmp_path, exit=0)
    with pytest.raises(ConfigError, match="save_pretrained"):
        export_exit(model, tmp_path, exit="original")
    with pytest.raises(ExitNotFoundError, match="exit 1 is not attached"):
        export_exit(model, tmp_path, exit=1)
    with pytest.raises(ExitNotFoundError, match="exit 9 does not exist"):
        export_exit(model, tmp_path, exit=9)
    with pytest.raises(ConfigError, match="has no exits; attach one"):
        export_exit(tiny.model_of("llama"), tmp_path, exit=2)


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_base_is_refused(tmp_path):
    torchao = pytest.importorskip("torchao.quantization")
    tiny.model_of("llama").save_pretrained(tmp_path / "base")
    kind = TorchAoConfig(torchao.Int8WeightOnlyConfig())
    model = AutoMultiExitModel.from_pretrained(
        tmp_path / "base", quantization_config=kind, dtype=torch.float32
    )
    attach_exits(model, (2,))

    with pytest.raises(ConfigError, match="load it without quantization_config"):
        export_exit(model, tmp_path / "draft", exit=2)


def test_weights_that_are_not_in_memory_are_refused(tmp_path):
    model = trained()
    model.lm_head.to("meta")

    with pytest.raises(ConfigError, match=r"lm_head\.weight is not in memory"):
        export_exit(model, tmp_path / "draft", exit=2)


def test_an_export_that_would_say_something_else_is_refused(tmp_path, monkeypatch):
    def another(*args, real=export.truncated_config, **named):
        config = real(*args, **named)
        config.rms_norm_eps = 0.5
        return config

    monkeypatch.setattr(export, "truncated_config", another)

    with pytest.raises(ConfigError, match=r"would be off by a share of .*FixedExit\(exit=2\)"):
        export_exit(trained(), tmp_path / "draft", exit=2)

    assert not (tmp_path / "draft").exists()


def test_a_family_whose_weights_do_not_fit_is_refused(tmp_path, monkeypatch):
    def deeper(config, *, kept, real=export.truncated_config, **named):
        return real(config, kept=[*kept, 0], **named)

    monkeypatch.setattr(export, "truncated_config", deeper)

    with pytest.raises(ConfigError, match=r"not those of a whole model: model\.layers\.2"):
        export_exit(trained(), tmp_path / "draft", exit=2)


def test_a_generation_configuration_that_transformers_does_not_write_is_named(tmp_path):
    model = trained()
    model.generation_config.update(do_sample=False, temperature=0.3)

    with pytest.raises(ConfigError, match=r"repair model\.generation_config"):
        export_exit(model, tmp_path / "draft", exit=2)

    assert not (tmp_path / "draft").exists()


def test_a_folder_in_use_is_left_alone(tmp_path):
    model, other = trained(), tmp_path / "other"
    other.mkdir()
    (other / CONFIG).write_text("{}")

    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="files that no export wrote"):
            export_exit(model, other, exit=2, overwrite=overwrite)
    with pytest.raises(ConfigError, match="is a file"):
        export_exit(model, other / CONFIG, exit=2)

    assert os.listdir(other) == [CONFIG]


def test_an_earlier_export_goes_only_if_it_may(tmp_path):
    model = trained()
    export_exit(model, tmp_path, exit=2)
    with pytest.raises(ConfigError, match="earlier export"):
        export_exit(model, tmp_path, exit=3)
    (tmp_path / "notes.txt").write_text("mine")
    mark = json.loads((tmp_path / MARK).read_text())
    (tmp_path / "stale.safetensors").touch()
    (tmp_path / MARK).write_text(json.dumps({**mark, "files": ["stale.safetensors", "../up"]}))
    (tmp_path.parent / "up").touch()

    export_exit(model, tmp_path, exit=3, overwrite=True)

    assert_says_what_the_exit_says(model, 3, plain(tmp_path))
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "stale.safetensors").exists()
    assert (tmp_path.parent / "up").exists()


def test_the_base_is_never_overwritten(tmp_path):
    export_exit(trained(), tmp_path, exit=3)
    model = attach_exits(AutoMultiExitModel.from_pretrained(tmp_path), (1,))

    with pytest.raises(ConfigError, match="holds the base of this exit"):
        export_exit(model, tmp_path, exit=1, overwrite=True)


@pytest.mark.parametrize("last", ["model.safetensors", CONFIG])
def test_a_crash_leaves_no_folder_that_looks_whole(last, tmp_path, monkeypatch):
    export_exit(trained(), tmp_path, exit=2)

    def crash(source, target, real=os.replace):
        if Path(target).name == last:
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            export_exit(trained(), tmp_path, exit=3, overwrite=True)

    assert not (tmp_path / CONFIG).exists()
    with pytest.raises((OSError, ValueError), match=r"config\.json|Unrecognized"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    export_exit(trained(), tmp_path, exit=3, overwrite=True)
    assert len(plain(tmp_path).model.layers) == 3


def test_what_a_killed_run_left_is_cleared_away(tmp_path):
    (tmp_path / STAGE).mkdir()
    (tmp_path / STAGE / "model.safetensors").write_text("half")

    export_exit(trained(), tmp_path, exit=2)

    assert STAGE not in os.listdir(tmp_path)


def test_a_full_disk_leaves_the_earlier_export(tmp_path):
    export_exit(trained(), tmp_path, exit=2)
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    script = (
        "import resource, signal, sys, tiny\n"
        "from offramp import attach_exits, export_exit\n"
        "model = attach_exits(tiny.model_of('llama', seed=5), (3,), 'head')\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "export_exit(model, sys.argv[1], exit=3, overwrite=True)\n"
    )
    env = {**os.environ}
    env["PYTHONPATH"] = os.pathsep.join([os.path.dirname(tiny.__file__), *sys.path])

    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], env=env, capture_output=True, text=True
    )

    assert f"{CheckpointError.__name__}: cannot write an export" in done.stderr, done.stderr
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before
