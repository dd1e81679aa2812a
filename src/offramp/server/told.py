"""Say what is known of tokens, in OpenAI's two shapes and in ours.

In:  tokens of a transcript. Out: JSON.
Law: texts of tokens joined are the text, their bytes its bytes (tests/server/test_openai.py).
"""

from collections.abc import Sequence
from typing import Any

from offramp.decoding.request import Likely
from offramp.server.spelling import Spelling, Vocabulary
from offramp.server.transcript import Token

LEAST = -9999.0
"""What OpenAI says for a probability of 0."""


def exits_told(tokens: Sequence[Token]) -> list[dict[str, Any]]:
    """Say which exit gave each token."""
    return [
        {
            "id": each.written.token,
            "text": each.text,
            "exit": each.written.exit,
            "confidence": round(each.written.confidence, 6),
            "prompt_position": None,
        }
        for each in tokens
    ]


def prompt_told(tokens: Sequence[int], vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """Say what a prompt consists of, in the same form."""
    return [
        {
            "id": token,
            "text": vocabulary.text(token),
            "exit": None,
            "confidence": None,
            "prompt_position": place,
        }
        for place, token in enumerate(tokens)
    ]


def chat_logprobs(tokens: Sequence[Token], vocabulary: Vocabulary) -> dict[str, Any]:
    """Give log-probabilities as chat completions have them."""
    return {
        "content": [
            {
                **_one(each.written.token, each.written.logprob, vocabulary),
                "top_logprobs": [
                    _one(token, logprob, vocabulary) for token, logprob in each.written.best
                ],
            }
            for each in tokens
        ],
        "refusal": None,
    }


def completion_logprobs(
    tokens: Sequence[Token], vocabulary: Vocabulary, *, offset: int
) -> dict[str, Any]:
    """Give log-probabilities as completions have them.

    Args:
        tokens: Of the text.
        vocabulary: Of the model.
        offset: Characters before the text.
    """
    return {
        "tokens": [vocabulary.text(each.written.token) for each in tokens],
        "token_logprobs": [_finite(each.written.logprob) for each in tokens],
        "top_logprobs": [_best(each.written.best, vocabulary) for each in tokens],
        "text_offset": [offset + each.start for each in tokens],
    }


def echo_logprobs(
    tokens: Sequence[int], likely: Sequence[Likely], vocabulary: Vocabulary
) -> dict[str, Any]:
    """Give those of a prompt in the same shape; its first token follows nothing and has none.

    Args:
        tokens: Of the prompt.
        likely: Of all but the first.
        vocabulary: Of the model.
    """
    spelling, offsets, end = Spelling(vocabulary), [], 0
    for token in tokens:
        offsets.append(end)
        end += len(spelling.add(token))
    return {
        "tokens": [vocabulary.text(token) for token in tokens],
        "token_logprobs": [None, *(_finite(logprob) for logprob, _ in likely)],
        "top_logprobs": [None, *(_best(best, vocabulary) for _, best in likely)],
        "text_offset": offsets,
    }


def _best(best: Sequence[tuple[int, float]], vocabulary: Vocabulary) -> dict[str, float]:
    return {vocabulary.text(token): _finite(logprob) for token, logprob in best}


def _one(token: int, logprob: float | None, vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        "token": vocabulary.text(token),
        "logprob": _finite(logprob),
        "bytes": list(vocabulary.raw(token)),
    }


def _finite(logprob: float | None) -> float:
    return LEAST if logprob is None else max(logprob, LEAST)
