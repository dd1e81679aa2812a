"""Damage what comes from outside, and watch what becomes of it.

A file or argument that was damaged ends in a result or in one line of an ``OfframpError``: no other
exception, nothing endless, nothing huge, nothing executed. ``HYPOTHESIS_PROFILE=deep`` runs
thousands of other examples in every run; by default a few that are always the same.
"""

import json
import math
import os
import resource
import signal
import struct
import traceback
from contextlib import contextmanager

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from offramp.errors import OfframpError

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "2000"))
NOTED = os.environ.get("FUZZ_NOTES")
"""A file: defects are noted there and the search goes on, to see many at once."""
SECONDS, BYTES = 60, 3 << 30
"""What one example may take: time, and memory beyond what the process has."""


def fuzzed(few: int):
    """Give the number of examples: few, or thousands."""
    return settings(
        max_examples=EXAMPLES if DEEP else few,
        derandomize=not DEEP,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


class TooMuchError(BaseException):
    """It did not end, and no ``except Exception`` shall hide that."""


@contextmanager
def bounded(*, seconds: int = SECONDS, size: int = BYTES):
    """Stop what does not end, and let a huge allocation fail."""

    def stop(*_):
        raise TooMuchError(f"no end after {seconds} s")

    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    before, limits = signal.signal(signal.SIGALRM, stop), resource.getrlimit(resource.RLIMIT_AS)
    signal.alarm(seconds)
    resource.setrlimit(resource.RLIMIT_AS, (used + size, limits[1]))
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, before)


def outcome(call, *arguments, **options):
    """Give a result, or None after an error of one line; all else fails the test."""
    with noted():
        try:
            with bounded():
                return call(*arguments, **options)
        except OfframpError as error:
            check_told(str(error))
        except TypeCheckError:  # pytest checks types when calls are made: ours never saw the value
            pass
    return None


@contextmanager
def noted():
    """Note a defect and go on, if defects are to be noted."""
    try:
        yield
    except Exception:
        if NOTED is None:
            raise
        _note(traceback.format_exc())


def check_told(told: str):
    """See that an error is one line, and that it does not tell of a huge allocation."""
    assert told.strip(), "an error says nothing"
    assert "\n" not in told, told
    assert "allocate" not in told, f"a huge allocation was tried: {told}"


def _note(trace: str):
    """Note a defect once for each place, and go on."""
    lines = [line for line in trace.splitlines() if "src/offramp" in line] or [trace]
    with open(NOTED, "a+", encoding="utf-8") as file:
        file.seek(0)
        if f"{lines[-1]}\n" not in file.read():
            file.write(f"{trace}\n{lines[-1]}\n\n")


TEXTS = ("", " ", "0", "-1", "original", "nan", "../..", "\x00", "\ud800", "\U0001f4a5", "x" * 5000)
NUMBERS = (-1, 0, 1, 2, 5, 2**31, 2**63, 10**30, -0.5, 0.5, 1e308, math.inf, -math.inf, math.nan)
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(NUMBERS),
    st.sampled_from(TEXTS),
    st.text(max_size=8),
    st.integers(-9, 9),
    st.sampled_from(([], {}, [[]], [None], ["x", 1], {"": None}, [1] * 50, [{"exit": 1}])),
)


def _places(value, path=()):
    """Name every place of a document."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from _places(value[key], (*path, key))
    elif isinstance(value, list):
        for number in range(min(len(value), 3)):
            yield from _places(value[number], (*path, number))


def _changed(value, path, change):
    if not path:
        return change(value)
    copy = value.copy()
    copy[path[0]] = _changed(value[path[0]], path[1:], change)
    return copy


def _at(value, path):
    for each in path:
        value = value[each]
    return value


@st.composite
def documents(draw, document, most: int = 3):
    """Change, drop, add or double some values of a document of JSON."""
    for _ in range(draw(st.integers(1, most))):
        path = draw(st.sampled_from(list(_places(document))))
        kind = draw(st.sampled_from(("change", "change", "drop", "add", "double")))
        inside = _at(document, path)
        if kind == "drop" and path:
            holder = _at(document, path[:-1]).copy()
            del holder[path[-1]]
            document = _changed(document, path[:-1], lambda _, new=holder: new)
        elif kind == "add" and isinstance(inside, dict):
            new = {**inside, draw(st.sampled_from(TEXTS)): draw(JUNK)}
            document = _changed(document, path, lambda _, new=new: new)
        elif kind == "double" and isinstance(inside, list):
            document = _changed(document, path, lambda _, new=inside * 2: new)
        else:
            new = draw(JUNK)
            document = _changed(document, path, lambda _, new=new: new)
    return document


NESTED = (b"[" * 100_000, b'{"a":' * 100_000, b"9" * 100_000, b"\xff\xfe", b"\xef\xbb\xbf{}")


@st.composite
def broken(draw, data: bytes):
    """Cut, flip, fill, double or replace bytes."""
    kind = draw(st.sampled_from(("cut", "flip", "fill", "double", "insert", "replace", "empty")))
    if kind == "empty" or not data:
        return b""
    place = draw(st.integers(0, len(data) - 1))
    if kind == "cut":
        return data[:place]
    if kind == "flip":
        return data[:place] + bytes([data[place] ^ draw(st.integers(1, 255))]) + data[place + 1 :]
    if kind == "fill":
        size = draw(st.integers(1, 64))
        return data[:place] + bytes(size) + data[place + size :]
    if kind == "double":
        return data[:place] + data
    if kind == "insert":
        return data[:place] + draw(st.binary(min_size=1, max_size=20)) + data[place:]
    return draw(st.sampled_from((*NESTED, b"\x80\x04.", b"PK\x03\x04", bytes(64))))


def json_files(document):
    """Damage a file of JSON, as a document or as bytes."""
    whole = json.dumps(document).encode()
    damaged = documents(document).map(lambda new: json.dumps(new).encode())
    return st.one_of(damaged, damaged, broken(whole))


@st.composite
def safetensors(draw, data: bytes):
    """Damage a safetensors file: its header, its values or any bytes."""
    kind = draw(st.sampled_from(("header", "header", "shape", "values", "length", "bytes")))
    if kind == "bytes":
        return draw(broken(data))
    size = struct.unpack("<Q", data[:8])[0]
    header, values = json.loads(data[8 : 8 + size]), data[8 + size :]
    if kind == "length":
        wrong = draw(st.sampled_from((0, 1, size - 1, size + 1, 2**32, 2**63, 2**64 - 1)))
        return struct.pack("<Q", wrong) + data[8:]
    if kind == "values":
        return data[: 8 + size] + draw(_other_values(values))
    if kind == "shape":
        name = draw(st.sampled_from([each for each in header if each != "__metadata__"]))
        entry = header[name]
        count = math.prod(entry["shape"])
        shape = draw(
            st.sampled_from(([count], [1, count], [count, 1], [], [0], entry["shape"] * 2))
        )
        kind = draw(st.sampled_from((entry["dtype"], "F16", "I64", "F64", "U8", "BOOL", "F8_E4M3")))
        header = {**header, name: {**entry, "shape": shape, "dtype": kind}}
        if draw(st.booleans()):
            header = {**header, "new.name": header.pop(name)}
    else:
        header = draw(documents(header, most=2))
    told = json.dumps(header).encode()
    return struct.pack("<Q", len(told)) + told + values


@st.composite
def _other_values(draw, values: bytes):
    """Put values in place of others that no weight has."""
    pattern = draw(st.sampled_from(("NaN", "inf", "huge", "bytes")))
    if pattern == "bytes" or len(values) < 8:
        return draw(broken(values))
    word = {
        "NaN": struct.pack("<f", math.nan),
        "inf": struct.pack("<f", math.inf),
        "huge": struct.pack("<f", 3e38),
    }[pattern]
    start = 4 * draw(st.integers(0, len(values) // 4 - 1))
    count = draw(st.sampled_from((1, 8, 1 << 20)))
    filled = values[:start] + word * min(count, (len(values) - start) // 4)
    return filled + values[len(filled) :]
