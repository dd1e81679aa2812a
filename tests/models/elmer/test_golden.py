"""The published implementation's own numbers, from its own weights: within 1e-4."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from offramp.models.elmer import ElmerForConditionalGeneration

GOLDEN = Path(__file__).parents[2] / "golden" / "elmer"


OWN = {"fine_tune": {}, "pre_train": {"canvas_slack": False}}
"""What must be said of each: the pre-trained weights might be a BART's."""


def run(kind, **more):
    expected = load_file(GOLDEN / kind / "expected.safetensors")
    model = ElmerForConditionalGeneration.from_pretrained(GOLDEN / kind, **OWN[kind], **more).eval()
    exits = {"exits": expected["exit_layers"] + 1} if "exit_layers" in expected else {}
    with torch.no_grad():
        output = model(
            input_ids=expected["input_ids"],
            attention_mask=expected["attention_mask"],
            decoder_input_ids=expected["decoder_input_ids"],
            labels=expected["labels"].masked_fill(expected["labels"] == 1, -100),
            **exits,
        )
    return output, expected


def same(found, wanted):
    return torch.allclose(found, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["fine_tune", "pre_train"])
def test_states_of_the_source_and_scores_are_the_published_ones(kind, attention):
    output, expected = run(kind, attn_implementation=attention)

    assert same(output.encoder_last_hidden_state, expected["encoder_last_hidden_state"])
    assert same(output.logits, expected["logits"])


def test_every_layer_s_states_and_every_exit_s_loss_are_the_published_ones_after_fine_tuning():
    output, expected = run("fine_tune")

    for exit, states in enumerate(output.decoder_hidden_states):
        assert same(states, expected[f"decoder_hidden_{exit}"])
    assert len(output.decoder_hidden_states) == 5
    losses = torch.cat([expected["intermediate_losses"], expected["loss"][None]])
    assert same(output.exit_losses, losses)
    assert same(output.loss, losses.mean())


def test_the_loss_of_layer_permutation_is_the_published_one():
    output, expected = run("pre_train")

    assert same(output.loss, expected["loss"])


def test_leaving_matters_in_the_golden_numbers():
    expected = load_file(GOLDEN / "pre_train" / "expected.safetensors")
    model = ElmerForConditionalGeneration.from_pretrained(GOLDEN / "pre_train").eval()
    with torch.no_grad():
        logits = model(
            input_ids=expected["input_ids"],
            attention_mask=expected["attention_mask"],
            decoder_input_ids=expected["decoder_input_ids"],
        ).logits

    assert not same(logits, expected["logits"])
