"""Write a trace as one HTML file that needs nothing else, and as a frame for notebooks.

In:  a trace. Out: HTML.
Law: nothing is fetched, and nothing but the page's own script is run: a content policy forbids the
     rest even if a token should ever get out of its place; without scripts the grid is still there
     (tests/trace/test_page.py).
Not here: the grid (.cells), its look (page.css), what keys and the pointer do (page.js).
"""

import base64
import hashlib
from functools import cache
from html import escape
from importlib.resources import files

from offramp.trace.cells import data_of, grid_of
from offramp.trace.sight import MEANINGS, MEASURES, left_at
from offramp.trace.values import Traced
from offramp.trace.wording import printable, shown

MEASURE = MEASURES[0]
ROW, REST, TALLEST = 34, 330, 900
"""Pixels of a notebook's frame: for each exit, for what is around the grid, and at most."""


def page_of(traced: Traced, *, title: str | None = None) -> str:
    """Give a whole HTML document.

    Args:
        traced: What was traced.
        title: Its heading; None names the model.
    """
    heading = escape(printable(title or _title(traced)))
    script = _file("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    return f"""<!doctype html>
<html lang=en>
<head>
<meta charset=utf-8>
<meta http-equiv=Content-Security-Policy content="{policy}">
<meta name=viewport content="width=device-width, initial-scale=1">
<meta name=referrer content=no-referrer>
<title>{heading}</title>
<style>{_file("page.css")}</style>
</head>
<body>
<header>
<h1>{heading}</h1>
<p class=facts>{escape(_facts(traced))}</p>
{_texts(traced)}
</header>
<main>
{_controls()}
<div class=panes>
<div class=grid role=region aria-label="Exits by positions" tabindex=0>
{grid_of(traced, measure=MEASURE)}
</div>
<div class=details id=details role=region aria-live=polite aria-label="The chosen cell">
<p class=hint>Point at a cell for what it says.</p>
</div>
</div>
{_keys(traced)}
</main>
<script type=application/json id=data>{data_of(traced)}</script>
<script>{script}</script>
</body>
</html>
"""


def frame_of(traced: Traced) -> str:
    """Give the page as a frame that notebooks can show, shut off from the notebook."""
    height = min(REST + ROW * (len(traced.exits) + 2), TALLEST)
    return (
        f'<iframe title="{escape(_title(traced))}" sandbox="allow-scripts" '
        f'style="width:100%;height:{height}px;border:0;border-radius:8px" '
        f'srcdoc="{escape(page_of(traced), quote=True)}"></iframe>'
    )


def _title(traced: Traced) -> str:
    what = "Canvas" if traced.kind == "canvas" else "Trace"
    return what if traced.model is None else f"{what} of {printable(traced.model)}"


def _facts(traced: Traced) -> str:
    shown_here, places = len(traced.positions), traced.length
    window = f"{shown_here} of {places}" if shown_here < places else str(places)
    facts = [f"{window} positions", f"{len(traced.exits)} exits of {traced.depth} blocks"]
    if traced.decoding is not None:
        facts.append(printable(traced.decoding))
    return ", ".join(facts)


def _texts(traced: Traced) -> str:
    """Give the source of a canvas, and what was written."""
    parts = []
    if traced.source:
        read = "".join(shown(each) if each.text is None else each.text for each in traced.source)
        parts.append(f"<p class=text>reads <code class=word>{escape(printable(read))}</code></p>")
    if traced.text is not None:
        words = escape(printable(traced.text))
        parts.append(f"<p class=text>writes <code class=word>{words}</code></p>")
    return "\n".join(parts)


def _controls() -> str:
    choices = "".join(
        f"<label><input type=radio name=measure value={each}"
        f"{' checked' if each == MEASURE else ''}>{each}</label>"
        for each in MEASURES
    )
    return f"""<div class=bar-row>
<fieldset id=measures hidden><legend>Colour cells by</legend>{choices}</fieldset>
<div class=scale><span id=low>0</span><i></i><span id=high>1</span>
<span id=meaning>{MEANINGS[MEASURE]}</span></div>
</div>"""


def _keys(traced: Traced) -> str:
    """Explain the marks, and the keys."""
    words = "left the layers here" if traced.kind == "canvas" else "the gates would let it leave"
    left = ""
    if any(left_at(position) is not None for position in traced.positions):
        left = f"<span><span class='key left'>token</span>{words}</span>"
    rule = ""
    if any(position.changed is not None for position in traced.positions):
        rule = f"<span>rule: the best token under {escape(printable(str(traced.decoding)))}</span>"
    return f"""<div class=keys>
<span><span class='key settled'>token</span>the last layer's answer from here on</span>
{left}{rule}
<span>italic: another answer than the last layer's</span>
<span>% beside an exit: positions at which it agrees</span>
<span>keys: <kbd>Tab</kbd> into the grid, <kbd>&larr;</kbd> <kbd>&uarr;</kbd> <kbd>&rarr;</kbd>
<kbd>&darr;</kbd>, <kbd>Home</kbd>, <kbd>End</kbd></span>
</div>"""


@cache
def _file(name: str) -> str:
    return files("offramp.trace").joinpath(name).read_text(encoding="utf-8")
