"""Options that contradict each other are refused in one line, before any model is loaded."""

import pytest

from offramp.cli.settings import Settings
from offramp.errors import ConfigError

PLAIN = {
    "model": None,
    "dtype": "auto",
    "device": "auto",
    "contrast": None,
    "alpha": None,
    "exit": None,
    "dola": None,
    "chat": None,
    "system": None,
    "max_new_tokens": 8,
    "sampling": {},
    "batch_size": 1,
    "seed": None,
}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--exit 3 --dola low", "--exit 3 and --dola low exclude each other"),
        ("--contrast original:2 --exit 3", "--contrast original:2 and --exit 3 exclude"),
        ("--contrast original:2 --exit 3 --dola low", "and --exit 3 and --dola low exclude"),
        ("--alpha 0.2", "--alpha 0.2 belongs to --contrast"),
        ("--alpha 0.2 --dola low", "--alpha 0.2 belongs to --contrast"),
        ("--system hello --no-chat", "--system needs the chat template"),
        ("--temperature 0", "--temperature must be above 0; try 0.7, got 0.0"),
        ("--temperature nan", "got nan"),
        ("--top-p 1.5", "--top-p must be above 0 and at most 1"),
        ("--repetition-penalty 0", "--repetition-penalty must be above 0"),
        ("--repetition-penalty inf", "got inf"),
        ("--no-do-sample --temperature 0.5 --top-k 3", "--temperature, --top-k would change noth"),
        ("--overwrite", "--overwrite belongs to --output"),
        ("--stream --json", "--json whole results; keep one"),
        ("--seed 4294967296", "--seed must be below 2**32, got 4294967296"),
        ("--max-new-tokens 0", "'--max-new-tokens': "),
        ("--max-new-tokens many", "'--max-new-tokens': "),
        ("--batch-size 0", "'--batch-size': "),
        ("--num-beams 0", "'--num-beams': "),
        ("--top-k -1", "'--top-k': "),
        ("--no-repeat-ngram-size -1", "'--no-repeat-ngram-size': "),
        ("--seed -1", "'--seed': "),
        ("--dtype int8", "'auto', 'float32', 'bfloat16', 'float16'"),
        ("--colour", "No such option: --colour"),
    ],
)
def test_what_contradicts_itself_is_refused_without_a_model(offramp, refused, options, said):
    ran = offramp("generate", "--model", "no/such-model", "prompt", *options.split())

    refused(ran, said)


def test_stream_and_output_are_refused(offramp, refused, tmp_path):
    ran = offramp("generate", "prompt", "--stream", "--output", tmp_path / "out.jsonl")

    refused(ran, "--stream shows text as it is made, --output whole results")
    assert not list(tmp_path.iterdir())


def test_stream_shows_one_prompt_only(offramp, refused, write):
    ran = offramp("generate", "--stream", "--file", write("prompts.txt", "a\nb"))

    refused(ran, "--stream shows one text, got 2 prompts")


def test_sampling_options_may_be_left_to_a_model_that_samples():
    settings = Settings(**{**PLAIN, "sampling": {"temperature": 0.5}})

    with pytest.raises(ConfigError, match="--temperature would change nothing"):
        settings.refuse_sampled_only()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--contrast 12", "--contrast takes two exits, got '12'; try original:12"),
        ("--contrast original:", "got ''"),
        ("--contrast 1:2:3", "got '2:3'"),
        ("--contrast 2:3", "swap them: 3:2"),
        ("--contrast 2:2", "exits, got 2 twice"),
        ("--contrast original:2 --alpha 0", "alpha must be above 0 and at most 1, got 0.0"),
        ("--contrast original:2 --alpha 1.1", "got 1.1"),
        ("--contrast original:2 --alpha nan", "got nan"),
        ("--exit last", "got 'last'"),
        ("--exit -1", "got '-1'"),
        ("--exit 1.5", "got '1.5'"),
        ("--dola middle", "--dola takes low, high or exit numbers, got 'middle'"),
        ("--dola 2,x", "got 'x'"),
        ("--dola 2,original", "got '2,original'"),
        ("--dola 2,2", "different exit numbers"),
        ("--early-exit luck:1", "--early-exit takes one of gate"),
        ("--early-exit schedule", "TOKEN=EXIT;TOKEN=EXIT after the colon, got ''; try schedule:0"),
        ("--early-exit schedule:0=3;4", "got '0=3;4'"),
        ("--early-exit schedule:4=3", "must begin at token 0"),
        ("--early-exit fixed:2 --exits 2;3", "names its exits itself; leave out --exits 2;3"),
        ("--early-exit top_gap:0.5 --exits 3;1;2", "exits out of order"),
        ("--exits 2", "--exits 2 belongs to --early-exit"),
        ("--min-exit 2", "--min-exit 2 belongs to --early-exit"),
        ("--early-exit top_gap:1.5", "from 0 to 1, got 1.5"),
        (
            "--early-exit top_gap:much",
            "takes a number after the colon, got 'much'; try top_gap:0.9",
        ),
        ("--early-exit patience:1", "at least 2; got 1"),
        ("--early-exit fixed", "got ''; try fixed:12"),
        ("--early-exit gate --cache skip", "'defer' or 'copy'"),
        ("--early-exit gate --speculate 2", "exclude each other"),
        ("--early-exit gate --exit 2", "exclude each other"),
        ("--early-exit top_gap:0.9 --contrast 3:1", "write --contrast original:1"),
        ("--cache copy", "--cache copy belongs to --early-exit"),
        ("--draft-length 2", "--draft-length 2 belongs to --speculate"),
        ("--lookup 2", "--lookup 2 belongs to --speculate"),
        ("--speculate original", "takes drafter or an exit number"),
        ("--speculate soon", "got 'soon'"),
        ("--device gpu", "--device gpu cannot be used here"),
        ("--device meta", "--device meta cannot be used here"),
    ],
)
def test_exits_and_devices_are_read_before_the_model(offramp, refused, options, said):
    ran = offramp("generate", "--model", "no/such-model", "prompt", *options.split())

    refused(ran, said)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--exit 4", "exit 4 is not attached; attached exits: 1, 2, 3"),
        ("--exit 5", "exit 5 does not exist: the model has 4 blocks"),
        ("--contrast original:9", "exit 9 does not exist"),
        ("--dola 1,4", "exits from 0 to 3"),
        ("--early-exit gate", "no exit of this model has a gate"),
        ("--early-exit fixed:9", "exit 9 does not exist"),
        ("--speculate drafter", "no trained drafter"),
        ("--runtime warp", "no engine 'warp'; use auto, plain"),
        ("--speculate 4", "draft_exit must be from 1 to 3"),
        ("--speculate 2 --num-beams 2", "got num_beams=2"),
        ("--temperature 0.5", "--temperature would change nothing without sampling"),
        ("--stream --num-beams 2", "--stream cannot show 2 beams"),
    ],
)
def test_what_the_model_cannot_do_is_refused(generate, refused, options, said):
    refused(generate("prompt", *options.split()), said)
