"""What transformers passes to generate and forward is understood, or refused."""

from types import SimpleNamespace

import pytest
import torch
from transformers import GenerationConfig

from models.elmer.small import fresh, shared, sources, targets
from offramp.decoding.oneshot import OneShot
from offramp.errors import ConfigError
from offramp.models.elmer.request import limit_of

PLAIN = OneShot()
NONE = SimpleNamespace(max_new_tokens=None)


def limit(max_new_tokens=None, *, own=NONE, **given):
    return limit_of(given, max_new_tokens, own=own, settings=PLAIN)


def test_who_says_the_length_first_is_heard():
    own = SimpleNamespace(max_new_tokens=7, max_length=20)
    config = GenerationConfig(max_new_tokens=6)

    assert limit() is None
    assert limit(own=own) == 7
    assert limit(own=own, generation_config=config) == 6
    assert limit(own=own, generation_config=GenerationConfig(max_length=5)) == 5
    assert limit(own=own, generation_config=config, max_length=4) == 4
    assert limit(3, own=own, generation_config=config, max_length=4) == 3


def test_a_trainer_s_max_length_of_the_model_s_own_settings_cuts_nothing():
    """Seq2SeqTrainer writes 20 there after its first batch."""
    assert limit(own=SimpleNamespace(max_new_tokens=None, max_length=20)) is None


@pytest.mark.parametrize("value", [0, -3])
def test_texts_of_no_token_are_refused(value):
    for given in ({"max_new_tokens": value}, {"max_length": value}):
        with pytest.raises(ConfigError, match=f"max_new_tokens must be at least 1, got {value}"):
            shared().generate(sources([3])[0], **given)


def test_what_cannot_matter_is_passed_over():
    model, (ids, mask) = shared(), sources([5, 2])
    labels = targets([3, 4])

    more = model.generate(
        ids,
        mask,
        labels=labels,
        use_cache=True,
        synced_gpus=True,
        num_beams=1,
        do_sample=False,
        generation_config=GenerationConfig(),
    )

    assert torch.equal(more, model.generate(ids, mask))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"num_beams": 4}, "num_beams must be 1, got 4"),
        ({"do_sample": True}, "do_sample must be False, got True"),
        ({"num_return_sequences": 2}, "num_return_sequences must be 1, got 2"),
        ({"generation_config": GenerationConfig(num_beams=4)}, "num_beams must be 1, got 4"),
        ({"min_length": 3}, "does not know min_length"),
        ({"no_repeat_ngram_size": 3}, "does not know no_repeat_ngram_size"),
        ({"exits": None}, "does not know exits"),
    ],
    ids=str,
)
def test_what_one_pass_cannot_do_is_refused(given, said):
    with pytest.raises(ConfigError, match=said) as caught:
        shared().generate(sources([3])[0], **given)

    assert "\n" not in str(caught.value)


def test_leaving_early_while_processes_wait_for_each_other_is_refused():
    with pytest.raises(ConfigError, match="with synced_gpus every process must run every layer"):
        shared().generate(
            sources([3])[0],
            synced_gpus=True,
            decoding=OneShot(exit_rule="entropy", threshold=0.5),
        )


@pytest.mark.parametrize(
    "given",
    [
        {"inputs_embeds": torch.zeros(1, 3, 16)},
        {"decoder_inputs_embeds": torch.zeros(1, 3, 16)},
        {"past_key_values": object()},
        {"output_attentions": True},
    ],
    ids=lambda value: next(iter(value)),
)
def test_what_bart_takes_and_elmer_lacks_is_refused(given):
    with pytest.raises(ConfigError, match=f"takes no {next(iter(given))}"):
        shared()(sources([3])[0], **given)


def test_what_a_trainer_adds_is_no_trouble():
    model, (ids, mask) = shared(), sources([3])

    output = model(ids, mask, output_attentions=False, past_key_values=None, row=torch.tensor([7]))

    assert torch.equal(output.logits, model(ids, mask).logits)


def test_the_model_s_own_generation_settings_limit_texts():
    model, (ids, mask) = fresh(), sources([5, 2])
    whole = model.generate(ids, mask)

    model.generation_config.max_new_tokens = 2

    assert whole.shape[1] > 2
    assert model.generate(ids, mask).shape[1] <= 2
