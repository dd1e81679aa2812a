"""Make questions for the embedded default to answer: patterns of ours, filled with words it writes.

    python recipes/default_exits/questions.py questions.txt

The questions that the model makes up itself are odd, and so are its answers; exits trained on those
alone do less well on answers to plain questions (docs/lab-log.md). None of prompts.txt is made.
"""

import random
import sys
from pathlib import Path

from transformers import AutoTokenizer

from offramp.models.default import ensure_default
from offramp.models.embedded import default_token_counts

COUNT, SKIPPED, TOPICS, SEED = 6000, 300, 2500, 0
PATTERNS = """What is {}?
What is the difference between {} and {}?
Explain {} in simple words.
Explain {} to a beginner, with an example.
Why is {} important?
How does {} work?
How can I learn more about {}?
How do I get started with {}?
What are the main causes of {}?
What are the advantages and disadvantages of {}?
Give me three tips for {}.
Give me five ideas for {}.
Write a short poem about {}.
Write a short story about {} and {}.
Write a polite email about {}.
Write a letter to a friend about {}.
Write a product description for {}.
Write a dialogue about {}.
Write a headline and a first sentence about {}.
Write a job advertisement that mentions {}.
Write a Python function that deals with {}.
Write a Python program about {}, with comments.
Write a SQL query about {}.
Write an HTML page about {}.
Describe {} in a few sentences.
Describe {} to someone who has never seen it.
Describe a typical day with {}.
Summarise the history of {}.
Summarise what scientists know about {}.
Compare {} and {}.
Who was the most important person in the history of {}?
When was {} invented, and by whom?
What should I know before I buy {}?
What should I do if {} fails?
How can I be better at {}?
How can I save money on {}?
How is {} made?
How do I take care of {}?
How do I explain {} to a child?
What makes good {}?
What does {} mean?
What are the rules of {}?
What are the benefits of {}?
What are the risks of {}?
Is {} better than {}?
Plan a day about {}.
Plan a lesson about {}.
Suggest a name for a company that sells {}.
Suggest questions for an interview about {}.
Give me a recipe with {}.
List the steps of {}.
List ten words that go with {}.
Tell me a joke about {}.
Tell me something surprising about {}.
Write a thank-you note that mentions {}.
Write an introduction to an essay on {}.
Rewrite this sentence in a friendly tone: "{} is not allowed."
Translate "{} and {}" into French.
Correct the grammar: "{} are very much goods for {}."
Solve a simple problem about {} step by step.
What happened to {} in the twentieth century?
What is the role of {} in modern society?
How do {} and {} influence each other?
Why do people like {}?
Why do people fear {}?
Can you help me with {}?
I feel worried about {}. What can I do?
I need to give a talk about {}. Help me begin.
I want to travel somewhere for {}. Where should I go?
What is the best way to organise {}?""".splitlines()


def topics() -> list[str]:
    """Give words that the model writes, without the commonest, which mean little."""
    tokenizer = AutoTokenizer.from_pretrained(ensure_default())
    tokens, _ = default_token_counts()
    words = [tokenizer.decode(token) for token in tokens[SKIPPED:]]
    kept = [
        word.strip()
        for word in words
        if word.startswith(" ") and word.strip().isalpha() and word.islower() and len(word) > 5
    ]
    return kept[:TOPICS]


def main() -> None:
    """Write the questions."""
    draw, words = random.Random(SEED), topics()
    asked = set((Path(__file__).parent / "prompts.txt").read_text().splitlines())
    made: dict[str, None] = {}
    while len(made) < COUNT:
        pattern = draw.choice(PATTERNS)
        question = pattern.format(*draw.sample(words, pattern.count("{}")))
        question = question[0].upper() + question[1:]
        if question not in asked:
            made[question] = None
    Path(sys.argv[1]).write_text("\n".join(made) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
