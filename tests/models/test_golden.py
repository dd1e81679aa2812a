"""The published implementations' own numbers: logits within 1e-4, DoLa's scores, which reach 200,
within 1e-3; ids identical."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from offramp import AutoMultiExitModel, DoLa, MultiExitConfiguration, attach_exits

GOLDEN = Path(__file__).parents[1] / "golden"
MODES = {
    "heads": "LAYER_SPECIFIC_PROJECTION",
    "cast": "SHARED_PROJECTION_CAST_OUTPUTS",
    "direct": "SHARED_PROJECTION_DIRECT",
}
RUNS = [
    (folder.name, number, run)
    for folder in sorted((GOLDEN / "multi_exit").iterdir())
    if folder.is_dir()
    for number, run in enumerate(json.loads((folder / "expected.json").read_text()))
]


@pytest.mark.parametrize(("folder", "number", "run"), RUNS, ids=lambda value: str(value)[:60])
def test_published_checkpoints_give_the_published_numbers(folder, number, run):
    expected = load_file(GOLDEN / "multi_exit" / folder / "expected.safetensors")
    mode = MODES[folder.split("_")[1]]
    config = MultiExitConfiguration(vocab_projection_mode=mode, **run)
    model = AutoMultiExitModel.from_pretrained(
        GOLDEN / "multi_exit" / folder, multi_exit_config=config
    )

    with torch.no_grad():
        logits = model(expected["input_ids"]).logits
    ids = model.generate(expected["input_ids"], max_new_tokens=12, do_sample=False)

    assert torch.allclose(logits[:, -1], expected[f"logits_{number}"], atol=1e-4, rtol=0)
    assert torch.equal(ids, expected[f"generated_{number}"])


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("batched", [False, True])
def test_dola_gives_the_numbers_of_transformers_4(number, batched):
    expected = load_file(GOLDEN / "dola" / "expected.safetensors")
    layers = json.loads((GOLDEN / "dola" / "expected.json").read_text())[number]
    model = AutoModelForCausalLM.from_pretrained(GOLDEN / "dola").eval()
    model = attach_exits(model, (1,), "direct")
    rule = DoLa(layers=layers if isinstance(layers, str) else tuple(layers), states="raw")
    rows = expected["input_ids"].split(len(expected["input_ids"]) if batched else 1)

    outputs = [
        model.generate(
            ids,
            max_new_tokens=8,
            do_sample=False,
            decoding=rule,
            suppress_tokens=[model.config.eos_token_id],
            output_scores=True,
            return_dict_in_generate=True,
        )
        for ids in rows
    ]
    ids = torch.cat([output.sequences for output in outputs])
    scores = torch.cat([torch.stack(output.scores, 1) for output in outputs])

    wanted = expected[f"scores_{number}"]
    assert torch.equal(ids, expected[f"generated_{number}"])
    assert torch.equal(scores.isinf(), wanted.isinf())
    finite = ~wanted.isinf()
    # Scores reach 200 and are differences; batches and processors sum in orders of their own.
    assert torch.allclose(scores[finite], wanted[finite], atol=1e-3, rtol=0)
