"""What a ticket promises its reader."""

import asyncio

import pytest

from offramp.errors import ConfigError, InputError
from offramp.server.jobs import Job, Ticket, Written


def test_a_ticket_ends_once_after_its_last_token_and_stays_ended():
    async def read():
        ticket = Ticket()
        ticket.put(Written(token=1, exit=4, confidence=1.0))
        ticket.end("length")
        ticket.end("error", ConfigError("late"))
        ticket.put(Written(token=2, exit=4, confidence=1.0))
        before = ticket.reason
        first = [each.token async for each in ticket]
        return before, first, [each async for each in ticket], ticket.reason, ticket.error

    assert asyncio.run(read()) == (None, [1], [], "length", None)


def test_cancelling_is_told_once_and_not_after_the_end():
    calls = []
    ticket, ended = Ticket(on_cancel=lambda: calls.append(1)), Ticket(on_cancel=calls.clear)

    ticket.cancel()
    ticket.cancel()
    ended.end("stop")
    ended.cancel()

    assert calls == [1]
    assert not ended.cancelled


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_new_tokens", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_k", -1),
        ("logprobs", -1),
    ],
)
def test_numbers_out_of_range_are_refused(field, value):
    with pytest.raises(ConfigError, match=f"{field} must be"):
        Job(**{"prompt": (1,), "max_new_tokens": 4, field: value})


def test_an_empty_prompt_is_refused():
    with pytest.raises(InputError, match="no tokens"):
        Job(prompt=(), max_new_tokens=4)
