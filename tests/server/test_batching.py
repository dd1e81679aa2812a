"""Texts written together are those written alone, and nobody waits for ever."""

import asyncio
import gc
import threading
import weakref
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from offramp import Contrast, DoLa, EarlyExit, FixedExit, SelfSpeculation, attach_exits
from offramp.errors import Busy, ConfigError, ExitNotFoundError, InputError
from offramp.server.batching import Batching
from offramp.server.jobs import Job
from offramp.server.scheduling import Room

DECODINGS = [
    None,
    Contrast(lower=1),
    Contrast(upper=3, lower=1),
    DoLa(layers=(1,)),
    FixedExit(exit=3),
    FixedExit(exit=0),
    EarlyExit(rule="top_probability", threshold=0.3),
    EarlyExit(rule="saturation", threshold=0.7, cache="copy"),
    SelfSpeculation(draft_exit=2, draft_length=3),
    SelfSpeculation(draft_exit=1, lookup=3, target=Contrast(lower=1)),
]
STOPS = frozenset({5})
SMALL = Room(slots=3, waiting=16, piece=5, short=24, tokens=150)


@cache
def model_of(family="llama"):
    return attach_exits(tiny.model_of(family), (0, 1, 2, 3), "lens")


def prompt(length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(3, tiny.VOCAB, (length,), generator=generator).tolist())


@cache
def generated(job, family="llama"):
    """What transformers' ``generate`` writes, and the exits it used where it says so."""
    drawn = {}
    if job.temperature:
        torch.manual_seed(job.seed)
        drawn = {"temperature": job.temperature, "top_p": job.top_p, "top_k": job.top_k}
    output = model_of(family).generate(
        torch.tensor([job.prompt]),
        attention_mask=torch.ones(1, len(job.prompt), dtype=torch.long),
        decoding=job.decoding,
        max_new_tokens=job.max_new_tokens,
        do_sample=bool(drawn),
        eos_token_id=sorted(job.stop_tokens) or tiny.VOCAB,
        return_dict_in_generate=True,
        **drawn,
    )
    return output.sequences[0, len(job.prompt) :].tolist()


async def together(writers, jobs, delays=None):
    """Submit each job once so many tokens have been written in all; give tokens and reasons."""
    seen = running = 0

    async def one(job, delay):
        nonlocal seen, running
        while seen < delay and running:
            await asyncio.sleep(0.001)
        running += 1
        tokens = []
        ticket = await writers.submit(job)
        async for written in ticket:
            tokens.append(written.token)
            seen += 1
        running -= 1
        return tokens, ticket.reason

    found = await asyncio.gather(*map(one, jobs, delays or [0] * len(jobs)))
    await writers.close(grace=0)
    return found


def written(jobs, delays=None, *, family="llama", room=SMALL):
    return asyncio.run(together(Batching(model_of(family), room=room), jobs, delays))


fields = st.fixed_dictionaries(
    {
        "prompt": st.builds(prompt, st.integers(1, 25), st.integers(0, 5)),
        "max_new_tokens": st.integers(1, 14),
        "decoding": st.sampled_from(DECODINGS),
        "temperature": st.sampled_from([0.0, 0.0, 0.8]),
        "top_p": st.sampled_from([1.0, 0.7]),
        "top_k": st.sampled_from([0, 7]),
        "seed": st.integers(0, 3),
        "stop_tokens": st.sampled_from([frozenset(), STOPS]),
    }
)


@settings(max_examples=8)
@given(several=st.lists(st.tuples(fields, st.integers(0, 20)), min_size=2, max_size=7))
def test_a_text_is_that_of_generate_whatever_runs_beside_it_and_whenever_it_joined(several):
    asked = [Job(**each) for each, _ in several]

    found = written(asked, [delay for _, delay in several])

    for job, (tokens, reason) in zip(asked, found, strict=True):
        assert tokens == generated(job)
        assert reason == ("stop" if tokens[-1] in job.stop_tokens else "length")


@pytest.mark.parametrize("decoding", DECODINGS, ids=str)
def test_every_decoding_writes_what_generate_writes_in_a_batch(decoding):
    jobs = [Job(prompt=prompt(n, n), max_new_tokens=9, decoding=decoding) for n in (3, 17, 9, 6)]

    assert [tokens for tokens, _ in written(jobs)] == [generated(job) for job in jobs]


def test_texts_of_onnx_runtime_are_those_of_generate():
    model = attach_exits(tiny.model_of("llama", head_dim=16), (1, 2), "lens")
    jobs = [
        Job(prompt=prompt(n, n), max_new_tokens=9, decoding=decoding)
        for n, decoding in ((3, None), (17, None), (9, Contrast(lower=1)), (6, None))
    ]
    alone = [
        model.generate(
            torch.tensor([job.prompt]),
            decoding=job.decoding,
            max_new_tokens=9,
            do_sample=False,
            eos_token_id=tiny.VOCAB,
        )[0, len(job.prompt) :].tolist()
        for job in jobs
    ]

    found = asyncio.run(together(Batching(model, room=SMALL, engine="onnxruntime"), jobs))

    assert [tokens for tokens, _ in found] == alone


def test_families_without_an_own_engine_are_batched_too():
    jobs = [Job(prompt=prompt(n, n), max_new_tokens=6) for n in (3, 17, 9)]

    found = written(jobs, family="gpt2")

    assert [tokens for tokens, _ in found] == [generated(job, "gpt2") for job in jobs]


def test_a_short_text_is_answered_while_long_ones_run():
    async def order():
        writers = Batching(model_of(), room=replace(SMALL, slots=4, tokens=1000))
        long = [Job(prompt=prompt(20, n), max_new_tokens=40) for n in range(6)]
        tickets = [await writers.submit(job) for job in long]
        await anext(tickets[0])
        short = await writers.submit(Job(prompt=prompt(4), max_new_tokens=3))
        count = len([written async for written in short])
        running = writers.counts().running
        reasons = [ticket.reason for ticket in tickets]
        await writers.close(grace=0)
        return count, running, reasons

    count, running, reasons = asyncio.run(order())

    assert count == 3
    assert running >= 3
    assert reasons == [None] * 6


def test_a_text_ends_where_the_model_positions_do():
    ((tokens, reason),) = written([Job(prompt=prompt(50), max_new_tokens=100)])

    assert len(tokens) == 64 - 50
    assert reason == "length"


def test_log_probabilities_are_those_of_the_model_before_temperature_and_cuts():
    async def told():
        writers = Batching(model_of())
        job = Job(prompt=prompt(6), max_new_tokens=4, temperature=0.5, top_k=3, seed=1, logprobs=2)
        found = [written async for written in await writers.submit(job)]
        await writers.close(grace=0)
        return job.prompt, found

    ids, found = asyncio.run(told())
    sequence = torch.tensor([[*ids, *(each.token for each in found)]])
    with torch.no_grad():
        shares = model_of()(sequence).logits[0, len(ids) - 1 : -1].log_softmax(-1)

    for row, each in zip(shares, found, strict=True):
        assert each.logprob == pytest.approx(float(row[each.token]), abs=1e-4)
        assert [token for token, _ in each.best] == row.topk(2).indices.tolist()
        assert [value for _, value in each.best] == pytest.approx(
            row.topk(2).values.tolist(), abs=1e-4
        )


def test_early_exits_and_their_confidence_are_told():
    async def told():
        writers = Batching(model_of())
        rule = EarlyExit(rule="top_probability", threshold=0.3)
        ticket = await writers.submit(Job(prompt=prompt(6), max_new_tokens=12, decoding=rule))
        found = [written async for written in ticket]
        await writers.close(grace=0)
        return found

    found = asyncio.run(told())

    assert found[0].exit == tiny.DEPTH
    assert {each.exit for each in found} > {tiny.DEPTH}
    assert all(each.confidence > 0.3 for each in found if each.exit < tiny.DEPTH)


def test_cancelling_frees_slot_and_memory_and_leaves_the_others_alone():
    async def cancelled():
        writers = Batching(model_of(), room=replace(SMALL, slots=1))
        first = await writers.submit(Job(prompt=prompt(6), max_new_tokens=58))
        second = await writers.submit(Job(prompt=prompt(6), max_new_tokens=50))
        other = Job(prompt=prompt(5), max_new_tokens=5)
        third = await writers.submit(other)
        await anext(first)
        row = weakref.ref(writers._running()[0].text.row)
        second.cancel()
        first.cancel()
        left = len([written async for written in first]), [each async for each in second]
        tokens = [written.token async for written in third]
        gc.collect()
        counts = writers.counts()
        await writers.close(grace=0)
        reasons = [each.reason for each in (first, second, third)]
        return left, tokens == generated(other), row(), counts, reasons

    left, same, row, counts, reasons = asyncio.run(cancelled())

    assert left[0] < 40
    assert left[1] == []
    assert same
    assert row is None
    assert (counts.running, counts.waiting, counts.free) == (0, 0, 1)
    assert reasons == ["cancelled", "cancelled", "length"]


def test_a_full_queue_refuses_and_says_when_to_come_again():
    async def refused():
        writers = Batching(model_of(), room=replace(SMALL, slots=1, waiting=1))
        job = Job(prompt=prompt(6), max_new_tokens=58)
        first = await writers.submit(job)
        await anext(first)
        await writers.submit(job)
        with pytest.raises(Busy, match="1 texts are waiting for 1 slots") as refusal:
            await writers.submit(job)
        await writers.close(grace=0)
        with pytest.raises(Busy, match="closing"):
            await writers.submit(job)
        return refusal.value.retry_after

    assert asyncio.run(refused()) >= 1


@pytest.mark.parametrize(("grace", "reason"), [(60.0, "length"), (0.0, "cancelled")])
def test_closing_finishes_texts_or_cancels_them(grace, reason):
    async def closed():
        writers = Batching(model_of(), room=replace(SMALL, slots=1))
        jobs = [Job(prompt=prompt(6), max_new_tokens=30)] * 3
        tickets = [await writers.submit(job) for job in jobs]
        await anext(tickets[0])
        await writers.close(grace=grace)
        await writers.close(grace=grace)
        for ticket in tickets:
            async for _ in ticket:
                pass
        return [ticket.reason for ticket in tickets]

    before = threading.active_count()

    assert asyncio.run(closed()) == [reason] * 3
    assert threading.active_count() <= before + 1  # asyncio's own helper


class _FailsOnce:
    """Breaks the drawing of one text, at its third token."""

    def __init__(self):
        self.calls = 0

    def __call__(self, ids, scores):
        self.calls += 1
        if self.calls >= 3:
            raise RuntimeError("a secret path")
        return scores


@pytest.mark.parametrize("decoding", [None, DECODINGS[6], DECODINGS[8]], ids=str)
def test_an_error_in_one_text_ends_that_text_only(decoding, monkeypatch, caplog):
    bad = Job(prompt=prompt(7, 9), max_new_tokens=9, decoding=decoding, temperature=0.9, seed=1)
    good = [
        Job(prompt=prompt(4), max_new_tokens=9, decoding=decoding, temperature=0.8, seed=2),
        Job(prompt=prompt(8), max_new_tokens=9, decoding=decoding),
    ]

    async def run():
        writers = Batching(model_of())
        tickets = []
        for job in (good[0], bad, good[1]):
            tickets.append(await writers.submit(job))
        broken = next(each for each in writers._waiting + writers._running() if each.job is bad)
        while broken.text is None:
            await asyncio.sleep(0)
        broken.text.request.processors.append(_FailsOnce())
        found = [[written.token async for written in ticket] for ticket in tickets]
        await writers.close(grace=0)
        return found, tickets

    found, tickets = asyncio.run(run())

    assert [found[0], found[2]] == [generated(job) for job in good]
    assert [ticket.reason for ticket in tickets] == ["length", "error", "length"]
    assert len(found[1]) < 9
    assert "secret" not in str(tickets[1].error)
    assert "secret" in caplog.text


@pytest.mark.parametrize(
    ("job", "error", "match"),
    [
        (Job(prompt=(5,) * 64, max_new_tokens=1), InputError, "context 64"),
        (Job(prompt=(5, 99), max_new_tokens=1), InputError, "ids from 0 to 60"),
        (Job(prompt=(5,), max_new_tokens=1, decoding=FixedExit(exit=9)), ExitNotFoundError, "9"),
        (Job(prompt=(5,), max_new_tokens=1, decoding=EarlyExit()), ConfigError, "gate"),
    ],
)
def test_what_the_model_cannot_follow_is_refused_at_once(job, error, match):
    async def submitted():
        writers = Batching(model_of())
        try:
            await writers.submit(job)
        finally:
            await writers.close(grace=0)

    with pytest.raises(error, match=match):
        asyncio.run(submitted())


def test_encoder_decoders_are_refused():
    with pytest.raises(ConfigError, match="t5 reads a source"):
        Batching(attach_exits(tiny.model_of("t5"), (1,), "direct"))
