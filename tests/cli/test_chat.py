"""Where a prompt comes from, what the chat template makes of it, and whether it fits."""

import json

import pytest


def test_a_prompt_comes_from_standard_input_where_there_is_none_else(generate):
    piped = generate("--json", stdin=b"a ferry\n")
    given = generate("a ferry", "--json", stdin=b"not this one")

    assert piped.texts == given.texts
    assert piped.results[0]["prompt"] == "a ferry"


def test_a_terminal_as_standard_input_is_no_prompt(generate, refused, terminal, monkeypatch):
    _, file = terminal
    monkeypatch.setattr("io.TextIOWrapper", lambda _: file)

    refused(generate(), "no prompt: give one as argument")


def test_the_chat_template_is_used_where_there_is_one(generate):
    chat = generate("a ferry", "--json")
    by_hand = generate("user: a ferry\nassistant: ", "--no-chat", "--json")

    assert chat.texts == by_hand.texts == generate("a ferry", "--chat", "--json").texts
    assert chat.results[0]["prompt"] == "a ferry"
    assert chat.texts != generate("a ferry", "--no-chat", "--json").texts


def test_a_template_that_brings_the_first_token_gets_no_second_one(generate, make_folder):
    template = "<bos>{% for message in messages %}{{ message.content }}{% endfor %}"
    adds_bos = make_folder(adds_bos=True, template=template)

    chat = generate("a ferry", "--json", model=adds_bos)
    by_hand = generate("a ferry", "--no-chat", "--json", model=adds_bos)
    doubled = generate("<bos>a ferry", "--no-chat", "--json", model=adds_bos)

    assert chat.texts == by_hand.texts
    assert chat.texts != doubled.texts


def test_a_system_message_comes_first_unless_the_prompt_brings_one(generate, write):
    talk = [{"role": "system", "content": "own"}, {"role": "user", "content": "u"}]
    jsonl = write("prompts.jsonl", f'{{"prompt": "u"}}\n{json.dumps({"messages": talk})}\n')

    ran = generate("--jsonl", jsonl, "--system", "be brief", "--json")

    expected = ["system: be brief\nuser: u\nassistant: ", "system: own\nuser: u\nassistant: "]
    by_hand = [generate(text, "--no-chat", "--json").texts[0] for text in expected]
    assert ran.texts == by_hand
    assert ran.results[1]["prompt"] == talk


@pytest.mark.parametrize(
    ("line", "options", "said"),
    [
        ('{"messages": [{"role": "user", "content": "u"}]}', "--no-chat", "line 1 holds messages"),
        ('{"messages": [{"role": "pirate", "content": "u"}]}', "", "unknown role pirate"),
    ],
)
def test_a_conversation_that_cannot_be_told_is_refused(
    generate, refused, write, line, options, said
):
    ran = generate("--jsonl", write("prompts.jsonl", line), *options.split())

    refused(ran, "prompts.jsonl, line 1", said)


def test_without_a_chat_template_prompts_are_taken_as_they_are(generate, refused, make_folder):
    plain = make_folder(template=None)

    assert generate("a", model=plain).out == generate("a", "--no-chat").out
    refused(generate("a", "--chat", model=plain), "has no chat template; leave out --chat")
    refused(generate("a", "--system", "s", model=plain), "has no chat template")


@pytest.mark.parametrize(
    ("length", "tokens", "said"),
    [
        (
            100,
            29,
            "has 100 tokens, which with --max-new-tokens 29 is more than the model's context "
            "of 128; use --max-new-tokens 28 or less",
        ),
        (127, 2, "use --max-new-tokens 1 or less"),
        (128, 1, "has 128 tokens, the model's context 128; shorten it to at most 127"),
        (500, 1, "shorten it to at most 127"),
    ],
)
def test_what_does_not_fit_the_context_is_refused(generate, refused, length, tokens, said):
    refused(generate("x" * length, "--no-chat", tokens=tokens), said)


def test_a_full_context_can_be_used(generate):
    ran = generate("x" * 100, "--no-chat", "--json", tokens=28)

    assert ran.results[0]["new_tokens"] == 28


def test_a_prompt_that_does_not_fit_is_found_before_anything_is_written(
    generate, refused, write, tmp_path
):
    prompts = write("prompts.txt", "short\n" + "x" * 200 + "\n")

    ran = generate("--file", prompts, "--no-chat", "--output", tmp_path / "out.jsonl")

    refused(ran, "prompts.txt, line 2 has 200 tokens")
    assert not (tmp_path / "out.jsonl").exists()


def test_an_empty_prompt_is_refused(generate, refused):
    refused(generate(""), "the prompt is empty, got ''")


def test_the_longest_prompt_of_an_encoder_decoder_is_its_context(generate, refused, make_folder):
    bart = make_folder("bart", template=None)

    assert generate("x" * 128, model=bart).code == 0
    refused(generate("x" * 129, model=bart), "shorten it to at most 128")
    refused(generate("x", model=bart, tokens=129), "--max-new-tokens 128 or less")
