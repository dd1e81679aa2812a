"""Exits are the family's own, by name; every other class is tried, and the page says what works."""

import functools

import pytest
import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

import tiny
from blocks import families
from offramp import FixedExit, Layout, attach_exits
from offramp.blocks.anatomy import CHECKED
from offramp.errors import ConfigError, UnknownLayoutError

NAMED = (
    *("bart", "bloom", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neo", "gpt_neox"),
    *("llama", "mistral", "olmo2", "opt", "phi", "phi3", "qwen2", "qwen3", "smollm3", "t5"),
)
EXITS = range(1, tiny.DEPTH + 1)


@functools.cache
def model_of(family: str):
    return attach_exits(tiny.model_of(family), EXITS)


def padded_prompt(model) -> tuple[dict, torch.Tensor]:
    """Inputs whose first row is padded on the left, and which decoder positions are text."""
    inputs = tiny.prompt(model, length=9)
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[0, :4] = 0
    name = "decoder_attention_mask" if model.config.is_encoder_decoder else "attention_mask"
    return {**inputs, name: mask}, mask.bool()


def test_the_families_tested_by_name_are_the_ones_that_are_not_probed():
    assert set(NAMED) == CHECKED


@pytest.mark.parametrize("family", NAMED)
def test_exit_l_is_the_model_itself(family):
    model = model_of(family)
    inputs, _ = padded_prompt(model)

    with torch.no_grad():
        own = model.base_forward(model, **inputs).logits
        told = model.exit_logits(**inputs, exits=(1, tiny.DEPTH))[tiny.DEPTH]

    assert torch.equal(told, own)


@pytest.mark.parametrize("family", NAMED)
def test_exit_l_read_from_its_state_is_the_model_itself(family):
    model = model_of(family)
    anatomy = model.anatomy
    inputs, _ = padded_prompt(model)
    states = []
    handle = anatomy.blocks[-1].register_forward_hook(lambda *call: states.append(call[2]))

    with torch.no_grad():
        own = model.base_forward(model, **inputs).logits
        state = states[0][0] if isinstance(states[0], tuple) else states[0]
        told = anatomy.scores(anatomy.head(anatomy.finish(state)))

    handle.remove()
    torch.testing.assert_close(told if anatomy.bias is None else told + anatomy.bias, own)


@pytest.mark.parametrize("family", NAMED)
def test_every_exit_is_the_family_own_hidden_state_read_by_norm_and_head(family):
    model = model_of(family)
    anatomy = model.anatomy
    inputs, shown = padded_prompt(model)

    with torch.no_grad():
        own = model.base_forward(model, **inputs, output_hidden_states=True)
        told = model.exit_logits(**inputs, exits=range(tiny.DEPTH + 1))

    hidden = own.decoder_hidden_states if model.config.is_encoder_decoder else own.hidden_states
    assert len(hidden) == tiny.DEPTH + 1
    for exit in range(tiny.DEPTH):
        read = anatomy.scores(anatomy.head(anatomy.finish(hidden[exit])))
        read = read if anatomy.bias is None else read + anatomy.bias
        torch.testing.assert_close(told[exit], read, rtol=1e-6, atol=1e-6)
        assert not torch.allclose(told[exit][shown], own.logits[shown], atol=0.1)
    assert told[0].isfinite().all()


@pytest.mark.parametrize("family", sorted(set(NAMED) - {"bart", "t5"}))
def test_a_padded_row_says_what_it_says_alone(family):
    model = model_of(family)
    inputs, _ = padded_prompt(model)
    alone = {"input_ids": inputs["input_ids"][:1, 4:]}

    with torch.no_grad():
        generate = functools.partial(model.generate, max_new_tokens=1, do_sample=False)
        settings = {"output_scores": True, "return_dict_in_generate": True, "eos_token_id": None}
        rule = FixedExit(exit=2)
        batch = generate(**inputs, **settings, decoding=rule).scores[0][0]
        single = generate(**alone, **settings, decoding=rule).scores[0][0]

    torch.testing.assert_close(batch, single, rtol=1e-4, atol=1e-4)


class FancyConfig(PreTrainedConfig):
    model_type = "fancy"
    vocab_size, hidden_size, num_hidden_layers, num_attention_heads = 11, 8, 2, 2
    tie_word_embeddings = False


class FancyLM(PreTrainedModel):
    """A model whose parts have names of their own."""

    config_class = FancyConfig

    def __init__(self, config: FancyConfig) -> None:
        super().__init__(config)
        self.machine = nn.Module()
        self.machine.words = nn.Embedding(11, 8)
        self.machine.body = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.machine.last_norm = nn.LayerNorm(8)
        self.machine.forward = self.go
        self.out = nn.Linear(8, 11)
        self.post_init()

    def go(self, input_ids: torch.Tensor) -> torch.Tensor:
        state = self.machine.words(input_ids)
        for block in self.machine.body:
            state = block(state)
        return self.machine.last_norm(state)

    def get_output_embeddings(self) -> nn.Module:
        return self.out

    def get_input_embeddings(self) -> nn.Module:
        return self.machine.words

    def forward(self, input_ids=None, return_dict=None, use_cache=None) -> CausalLMOutput:
        return CausalLMOutput(logits=self.out(self.machine(input_ids)))


@pytest.fixture
def fancy() -> FancyLM:
    torch.manual_seed(0)
    model = FancyLM(FancyConfig()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def test_an_unknown_layout_is_refused_with_its_lists_and_how_to_name_its_parts(fancy):
    with pytest.raises(UnknownLayoutError) as caught:
        attach_exits(fancy, (1,))

    message = str(caught.value)
    assert "cannot find the blocks of FancyLM: looked for model.layers, transformer.h" in message
    assert "this model's lists are machine.body (2)" in message
    assert "layout=Layout(stack='path.to.decoder', blocks='layers', finish=('norm',))" in message
    assert "\n" not in message


def test_an_unknown_layout_works_once_its_parts_are_named(fancy):
    layout = Layout(stack="machine", blocks="body", finish=("last_norm",))
    ids = torch.tensor([[1, 2, 3]])
    own = fancy(ids).logits
    state = fancy.machine.body[0](fancy.machine.words(ids))

    told = attach_exits(fancy, (1, 2), layout=layout).exit_logits(ids, exits=(1, 2))

    assert torch.equal(told[2], own)
    assert torch.equal(told[1], fancy.out(fancy.machine.last_norm(state)))


@pytest.mark.parametrize(
    "layout",
    [
        Layout(stack="machine", blocks="body"),
        Layout(stack="machine", blocks="body", finish=("last_norm", "last_norm")),
        Layout(stack="machine", blocks="body", finish=("last_norm",), divisor="num_hidden_layers"),
    ],
    ids=["norm left out", "norm twice", "scaled"],
)
def test_a_wrong_layout_is_refused_by_the_probe(fancy, layout):
    with pytest.raises(ConfigError, match="does not give the model's own logits"):
        attach_exits(fancy, (1,), layout=layout)

    assert type(fancy) is FancyLM


@pytest.mark.parametrize(
    "layout",
    [
        Layout(stack="engine", blocks="body"),
        Layout(stack="machine", blocks="words"),
        Layout(stack="machine", blocks="body", finish=("first_norm",)),
    ],
    ids=["no such stack", "not a list", "no such norm"],
)
def test_a_layout_that_names_what_is_not_there_is_refused(fancy, layout):
    with pytest.raises(UnknownLayoutError, match=r"this model's lists are machine.body \(2\)"):
        attach_exits(fancy, (1,), layout=layout)


def test_a_finish_that_begins_with_a_slash_begins_at_the_model(fancy):
    fancy.norm_outside = fancy.machine.last_norm
    layout = Layout(stack="machine", blocks="body", finish=("/norm_outside",))

    assert attach_exits(fancy, (1,), layout=layout).depth == 2


def test_every_class_of_transformers_is_tried_and_the_page_says_what_works():
    """Regenerate by ``PYTHONPATH=tests python tests/blocks/families.py --write``."""
    rows = families.survey()

    assert len(rows) == len([*families.classes()])
    assert all(row.exits and row.contrast and row.spans for row in rows if row.family in CHECKED)
    assert all(row.exits is not True or row.contrast for row in rows)
    assert f"asks transformers {transformers.__version__} for" in families.PAGE.read_text()
    assert families.PAGE.read_text() == families.page(rows)
