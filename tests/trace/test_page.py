"""The page needs nothing, runs nothing but its own script, and shows tokens as text."""

import base64
import hashlib
import json
import resource
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.errors import InputError
from offramp.trace.values import TracedExit
from trace_made import position, trace_of

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<!--",
    '"\' onmouseover=alert(1) x="',
    "</td></table><img src=x onerror=alert(1)>",
    "&lt;b&gt;&amp;",
    "]]>",
    "\u2028\u202e",
]


class Seen(HTMLParser):
    """The elements of a page, the texts of its cells and of its scripts."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.cells, self.scripts = [], [], [], []
        self._in = None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        self._in = tag
        if tag == "td":
            self.cells.append("")
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._in = None

    def handle_data(self, text):
        if self._in == "td":
            self.cells[-1] += text
        if self._in == "script":
            self.scripts[-1] += text


def hostile_trace(word):
    return trace_of(
        position(0, (word,) * 3, token_text=word, rule=(word, "z")),
        model=word,
        decoding=word,
        text=word,
        exits=tuple(TracedExit(exit=each, projection=word) for each in (1, 3, "original")),
    )


harmless = Seen(hostile_trace("word").to_html())


@given(st.sampled_from(HOSTILE) | st.text(min_size=1, max_size=30))
def test_whatever_a_token_holds_the_page_has_the_same_elements(word):
    page = Seen(hostile_trace(word).to_html(title=word))

    assert page.tags == harmless.tags
    assert [name for name, _ in page.attributes] == [name for name, _ in harmless.attributes]
    data = json.loads(page.scripts[0])
    assert len(data["positions"]) == 1
    assert page.scripts[1] == harmless.scripts[1]


def test_a_cell_shows_the_token_and_nothing_else():
    page = Seen(hostile_trace("<b>&").to_html())

    assert page.cells == ["<b>&", "<b>&", "<b>&", "z", "next"]


def test_the_policy_allows_the_script_that_is_there_and_nothing_is_fetched():
    html = trace_of(position(0)).to_html()
    page = Seen(html)
    (policy,) = [value for name, value in page.attributes if name == "content" and "src" in value]
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()

    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}';" in policy
    assert not {"src", "href", "action"} & {name for name, _ in page.attributes}
    assert "http" not in html.replace("http-equiv", "")
    assert "url(" not in html
    assert "@import" not in html


def test_one_trace_makes_one_page():
    trace = trace_of(position(0), position(5, leaves=True))

    assert trace.to_html() == trace.to_html()


def test_a_window_a_canvas_and_nothing_at_all_have_their_page():
    assert "1 of 100 positions" in trace_of(position(9)).to_html()
    canvas = trace_of(position(0, left=1), kind="canvas", text="a text").to_html()
    assert "writes <code class=word>a text</code>" in canvas
    assert "left the layers here" in canvas
    assert "<table" in trace_of().to_html()


def test_a_notebook_gets_a_frame_that_is_shut_off():
    word = '"><script>alert(1)</script>'
    frame = Seen(hostile_trace(word)._repr_html_())

    assert frame.tags == ["iframe"]
    attributes = dict(frame.attributes)
    assert attributes["sandbox"] == "allow-scripts"
    assert attributes["srcdoc"] == hostile_trace(word).to_html()


@pytest.mark.parametrize("ending", [".json", ".html"])
def test_what_is_saved_is_there(tmp_path, ending):
    trace = trace_of(position(0))
    trace.save(tmp_path / f"trace{ending}")

    text = (tmp_path / f"trace{ending}").read_text("utf-8")
    assert text == (trace.to_html() if ending == ".html" else f"{trace.to_json()}\n")
    if ending == ".json":
        assert type(trace).load(tmp_path / "trace.json") == trace


@pytest.fixture
def full_disk():
    """Let no file grow beyond 1,000 bytes, as on a full disk; give the switch."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("ending", [".json", ".html", ".svg", ".png"])
def test_a_full_disk_leaves_the_file_that_was_there(tmp_path, full_disk, ending):
    place = tmp_path / f"trace{ending}"
    place.write_text("the trace before")
    trace = trace_of(*map(position, range(8)))
    full_disk()

    with pytest.raises(InputError, match="File too large; name another file"):
        trace.save(place)

    assert place.read_text() == "the trace before"
    assert [each.name for each in tmp_path.iterdir()] == [place.name]
