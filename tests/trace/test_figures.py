"""The figures show what was traced, and are the same each time."""

import sys
from importlib.machinery import PathFinder

import pytest

from offramp.errors import ConfigError, InputError
from trace_made import position, trace_of

TRACE = trace_of(
    position(0, ("x", "$x$", "c"), leaves=False, divergence=None),
    position(1, leaves=True, token_text="$\\frac"),
)


@pytest.mark.parametrize("ending", [".svg", ".png"])
def test_one_trace_makes_one_picture(tmp_path, ending):
    for name in ("one", "two"):
        TRACE.save(tmp_path / f"{name}{ending}")

    one, two = ((tmp_path / f"{name}{ending}").read_bytes() for name in ("one", "two"))
    assert one == two
    assert one.startswith({".svg": b"<?xml", ".png": b"\x89PNG"}[ending])


def test_an_svg_names_tokens_exits_and_measures_as_they_are(tmp_path):
    TRACE.save(tmp_path / "trace.svg")

    text = (tmp_path / "trace.svg").read_text("utf-8")
    for words in (">$x$<", ">$\\frac<", ">last<", "exit (number of blocks, of 4)", "agrees"):
        assert words in text


def test_the_heat_map_holds_the_measure_by_depth_and_position():
    (image,) = TRACE.heat_map(measure="probability").axes[0].images

    assert image.get_array().shape == (3, 2)
    assert image.get_array().tolist() == [[0.5, 0.5]] * 3


def test_the_curve_is_the_agreement_of_every_exit():
    line = TRACE.agreement_curves().axes[0].lines[0]

    assert line.get_ydata().tolist() == [100, 100, 100]


def test_the_histogram_counts_where_gates_let_go_and_where_places_left():
    def heights(trace):
        return [bar.get_height() for bar in trace.exit_histogram().axes[0].patches]

    canvas = trace_of(
        *(position(n, left=each) for n, each in enumerate((1, 3, 4, 3))), kind="canvas"
    )

    assert heights(TRACE) == [1, 0, 1]
    assert heights(canvas) == [1, 2, 1]
    assert heights(trace_of(position(0), position(1))) == [2, 0, 0]


def test_a_map_of_many_cells_is_drawn_without_words(tmp_path):
    long = trace_of(*(position(n) for n in range(300)), length=300)

    assert not long.heat_map().axes[0].texts
    long.save(tmp_path / "long.png")


def test_what_cannot_be_drawn_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="no measure"):
        TRACE.heat_map(measure="x")
    with pytest.raises(ConfigError, match=r"\.json, \.html, \.svg, \.png, got"):
        TRACE.save(tmp_path / "trace.pdf")
    for ending in (".html", ".png"):
        with pytest.raises(InputError, match="cannot write"):
            TRACE.save(tmp_path / "none" / f"trace{ending}")
    real = PathFinder.find_spec
    monkeypatch.setattr(
        PathFinder,
        "find_spec",
        lambda name, *rest: None if name == "matplotlib" else real(name, *rest),
    )
    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'offramp\[eval\]'"):
        TRACE.exit_histogram()
