"""The page in a real browser, against a real server of a tiny model."""

import re

import httpx
import pytest
from axe_core_python.sync_playwright import Axe
from playwright.sync_api import expect

from tiny import DEPTH

PROMPT = "The old lighthouse keeper"
HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>&lt;b&gt;</textarea>'


def link(site, **state):
    """Write an address of the page; ``a_lower`` stands for the setting a.lower."""
    state = {"prompt": PROMPT, "mode": "completion", "tokens": 24, **state}
    named = {name.replace("_", ".", 1): str(value) for name, value in state.items()}
    return f"{site}/#{httpx.QueryParams(named)}"


def lane(page, letter="A"):
    return page.get_by_role("region", name=f"Text {letter}")


def write(page):
    page.get_by_role("button", name="Write").click()
    expect(page.get_by_role("button", name="Write")).to_be_enabled()
    expect(page.locator(".writing")).to_have_count(0)


def tokens(page, letter="A"):
    return lane(page, letter).locator(".token")


def open_layers(page, index, letter="A"):
    tokens(page, letter).nth(index).click()
    expect(page.get_by_role("table")).to_be_visible()


def rows(page):
    """Read the layer table: exit, and its best token with the space that it begins with."""
    found = page.locator("#layers tbody tr")
    return [
        (
            int(row.locator(".chip").inner_text()),
            row.locator(".word").first.text_content().removesuffix(" (written)"),
        )
        for row in found.all()
    ]


COUNT_LENGTHS = """() => {
  window.lengths = [];
  const note = () => window.lengths.push(document.querySelector(".lane .text").textContent.length);
  new MutationObserver(note).observe(document.body, { childList: true, subtree: true });
}"""
"""Notes how long the text is, at every change of the page."""


def test_a_text_streams_in_and_is_the_one_that_the_api_gives(site, visit):
    asked = {"prompt": PROMPT, "max_tokens": 120, "temperature": 0}
    told = httpx.post(f"{site}/v1/completions", json=asked, timeout=30).json()["choices"][0]["text"]
    with visit(link(site, tokens=120)) as page:
        page.evaluate(COUNT_LENGTHS)
        page.get_by_role("button", name="Write").click()
        tokens(page).first.wait_for()
        expect(page.locator(".writing")).to_have_count(0)

        lengths = page.evaluate("window.lengths")
        assert len(set(lengths)) > 2  # it grew before the eye, and did not come at once
        assert lengths == sorted(lengths)
        assert lane(page).locator(".text").text_content() == PROMPT + told
        assert lane(page).locator(".plain-text").text_content() == told
        for name in ("speed", "first", "tokens", "exit"):
            assert re.search(r"\d", page.locator(f"[data-number={name}]").first.inner_text())


def test_each_token_shows_where_it_left_by_colour_underline_and_name(site, visit):
    with visit(link(site, a="early_exit", a_threshold=0.5, tokens=60)) as page:
        write(page)
        shown = tokens(page).evaluate_all(SHOWN)
        counted = (
            page.locator(".lane")
            .first.locator(".bar-of[data-count]")
            .evaluate_all("bars => bars.map(bar => Number(bar.dataset.count))")
        )
        seen = {exit: (colour, length) for exit, _, colour, length in shown}

        assert len(seen) > 1
        for part in (0, 1):
            assert len({styles[part] for styles in seen.values()}) == len(seen)
        for exit, name, *styles in shown:
            assert tuple(styles) == seen[exit]
            assert ("whole model" if exit == DEPTH else f"exit {exit} of {DEPTH}") in name
        assert sum(counted) == tokens(page).count()
        tokens(page).first.hover()
        expect(page.locator("#tip")).to_be_visible()
        assert tokens(page).first.inner_text().strip() in page.locator("#tip").inner_text()


@pytest.mark.parametrize("mode", ["completion", "chat"])
def test_the_layer_table_is_of_the_very_place_of_a_token(site, visit, mode):
    with visit(link(site, mode=mode)) as page:
        write(page)
        spelled = page.locator(".token").all_text_contents()
        for index in (0, 1, 11):
            open_layers(page, index)
            expect(page.locator("#layers tbody tr")).to_have_count(DEPTH)
            expect(page.locator("#layers")).to_have_attribute("aria-busy", "false")
            found = rows(page)

            assert [exit for exit, _ in found] == list(range(1, DEPTH + 1))
            assert found[-1][1].strip() == spelled[index].strip()
            assert page.locator("#layers tbody tr").last.locator(".chosen").count() == 1


def test_two_decodings_are_compared_with_their_speed(site, visit):
    with visit(link(site, a="plain", b="speculation", b_draft_exit=2)) as page:
        write(page)
        expect(lane(page, "B").locator(".note")).to_contain_text("The same text as A")
        assert "times its speed" in lane(page, "B").locator(".note").inner_text()
        assert tokens(page, "A").all_text_contents() == tokens(page, "B").all_text_contents()

        lane(page, "B").get_by_text("ACD", exact=True).click()
        lane(page, "B").get_by_label("Against").select_option("1")
        write(page)
        pair = [tokens(page, letter).all_text_contents() for letter in "AB"]
        first = next(i for i, (a, b) in enumerate(zip(*pair, strict=False)) if a != b)
        for letter in "AB":
            expect(tokens(page, letter).nth(first)).to_have_class(re.compile("differs"))


def test_a_link_brings_everything_but_the_key_and_starts_nothing(site, visit):
    with visit(site) as page:
        page.get_by_label("Prompt").fill(HOSTILE)
        page.get_by_text("Completion", exact=True).click()
        page.get_by_label("Length").fill("7")
        page.get_by_label("Temperature").fill("0.5")
        page.get_by_label("Seed").fill("11")
        page.get_by_label("Compare two").check()
        lane(page).get_by_text("Exit", exact=True).click()
        lane(page).get_by_label("Leave at").select_option("2")
        lane(page, "B").get_by_text("Early exit", exact=True).click()
        lane(page, "B").get_by_label("Sure from").fill("0.25")
        page.get_by_role("button", name="Copy link").click()
        expect(page.locator("#note")).to_contain_text("Link copied.")
        address = page.url

    asked = []
    with visit(address) as page:
        page.on("request", lambda request: asked.append(request.method))
        expect(page.get_by_label("Prompt")).to_have_value(HOSTILE)
        expect(page.locator("[name=mode][value=completion]")).to_be_checked()
        expect(page.get_by_label("Length")).to_have_value("7")
        expect(page.get_by_label("Temperature")).to_have_value("0.5")
        expect(page.get_by_label("Seed")).to_have_value("11")
        expect(page.get_by_label("Leave at")).to_have_value("2")
        expect(page.get_by_label("Sure from")).to_have_value("0.25")
        assert "POST" not in asked


def test_who_types_before_the_models_are_known_replaces_the_sample(site, visit):
    held = []
    with visit(site) as page:
        page.route("**/v1/models", lambda route: held.append(route))
        with page.expect_request("**/v1/models"):
            page.reload()
        prompt = page.get_by_label("Prompt")
        prompt.focus()
        expect(prompt).to_have_value("")
        held[0].continue_()
        expect(page.get_by_role("button", name="Write")).to_be_enabled()
        page.keyboard.insert_text("mine")

        expect(prompt).to_have_value("mine")


def test_a_broken_link_still_gives_a_page_that_works(site, visit):
    broken = "#a=nonsense&a.lower=x&b=exit&b.exit=99&mode=%00&tokens=zz&model=none&=&%"
    with visit(f"{site}/{broken}") as page:
        page.get_by_label("Length").fill("3")
        page.get_by_label("Prompt").fill(PROMPT)
        write(page)
        assert tokens(page, "A").count() == tokens(page, "B").count() == 3


@pytest.mark.parametrize("mode", ["completion", "chat"])
def test_hostile_text_stays_text_in_prompts_and_in_what_the_model_writes(site, visit, mode):
    state = {"prompt": HOSTILE, "tokens": 40, "mode": mode}
    with visit(link(site, **state)) as page:
        write(page)
        assert "<script>" in lane(page).locator(".plain-text").text_content()
        hostile = next(
            i for i, text in enumerate(tokens(page).all_text_contents()) if "<img" in text
        )
        open_layers(page, hostile)
        tokens(page).nth(hostile).hover()
        assert page.locator("main img, main script, #tip img").count() == 0


def test_stop_ends_the_text_here_and_on_the_server(site, visit):
    with visit(link(site, tokens=2000)) as page:
        page.get_by_role("button", name="Write").click()
        tokens(page).nth(5).wait_for()
        page.get_by_role("button", name="Stop").click()
        expect(lane(page).locator(".note")).to_have_text("Stopped.")
        count = tokens(page).count()

        write_button = page.get_by_role("button", name="Write")
        expect(write_button).to_be_focused()
        assert count < 2000
        page.wait_for_timeout(200)
        assert tokens(page).count() == count
        page.get_by_label("Length").fill("4")
        write(page)
        assert tokens(page).count() == 4


def test_what_the_server_refuses_is_said_in_words(site, visit):
    refused = "the server responded with a status of 4"
    with visit(link(site, prompt="far " * 3000), complaints=[refused]) as page:
        page.get_by_role("button", name="Write").click()
        trouble = lane(page).locator(".trouble")
        expect(trouble).to_contain_text("The server did not accept this.")
        expect(trouble).to_contain_text("tokens")


def test_a_server_that_is_gone_is_said_in_words_and_nothing_typed_is_lost(site, visit):
    with visit(link(site), complaints=["ERR_INTERNET_DISCONNECTED"]) as page:
        page.get_by_label("Prompt").fill("kept")
        page.context.set_offline(True)
        page.get_by_role("button", name="Write").click()
        expect(lane(page).locator(".trouble")).to_contain_text("The server does not answer.")
        expect(page.get_by_label("Prompt")).to_have_value("kept")
        page.context.set_offline(False)
        write(page)
        assert tokens(page).count() == 24
        expect(lane(page).locator(".trouble")).to_be_empty()


def test_a_busy_server_is_asked_again_after_the_time_it_names(crowded, visit):
    with visit(link(crowded), complaints=["status of 429"]) as page:
        with httpx.stream(
            "POST",
            f"{crowded}/v1/completions",
            json={"prompt": PROMPT, "max_tokens": 2000, "stream": True, "temperature": 0},
            timeout=30,
        ) as other:
            running = other.iter_bytes()
            next(running)
            page.get_by_role("button", name="Write").click()
            alert = lane(page).locator(".trouble")
            expect(alert).to_contain_text(re.compile(r"busy.*wait \d+ s"))
            expect(alert.get_by_role("button")).to_be_disabled()
        expect(alert.get_by_role("button")).to_be_enabled()
        alert.get_by_role("button", name="Try again").click()
        expect(tokens(page)).to_have_count(24)


def test_a_click_before_the_models_are_known_is_not_lost(site, visit):
    with visit("about:blank") as page:
        held = []
        page.route("**/v1/models", lambda route: held.append(route))
        with page.expect_request("**/v1/models"):
            page.goto(link(site))
        button = page.get_by_role("button", name="Write")
        expect(button).to_be_disabled()  # a reader sees that it does nothing yet
        page.keyboard.press("Control+Enter")

        held.pop().continue_()
        write(page)
        expect(tokens(page)).to_have_count(24)


def test_a_server_with_a_key_asks_for_it_and_keeps_it_out_of_links(locked, visit):
    with visit(link(locked), complaints=["status of 401"]) as page:
        expect(page.get_by_role("alert").first).to_contain_text("The server wants an API key.")
        key = page.get_by_label("This server asks for an API key")
        expect(key).to_be_focused()
        key.fill("wrong")
        with page.expect_response(lambda answer: answer.status == 401):
            key.press("Enter")
        expect(page.get_by_role("alert").first).to_contain_text("The server wants an API key.")
        key.fill("open sesame")
        key.press("Enter")
        expect(key).to_be_hidden()
        write(page)
        assert tokens(page).count() == 24
        page.get_by_role("button", name="Copy link").click()
        expect(page.locator("#note")).to_contain_text("Link copied.")
        assert "sesame" not in page.url
        page.reload()
        expect(page.get_by_label("Prompt")).to_have_value(PROMPT)


def test_nothing_is_wider_than_a_phone(site, visit):
    state = {"prompt": "unbreakable" * 30, "a": "early_exit", "b": "contrast", "tokens": 40}
    with visit(link(site, **state), viewport={"width": 360, "height": 740}) as page:
        write(page)
        open_layers(page, 3, "B")
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width == 360
        last = page.locator("#layers thead th:visible").last
        last.scroll_into_view_if_needed()
        expect(last).to_be_in_viewport()
        edges = page.locator("button:visible, select:visible, input:visible").evaluate_all(
            "all => all.map(e => e.getBoundingClientRect()).map(box => [box.left, box.right])"
        )
        assert all(left >= 0 and right <= 360 for left, right in edges)


def test_everything_can_be_done_with_the_keyboard(site, visit):
    with visit(site) as page:
        keys = page.keyboard
        keys.press("Tab")
        expect(page.get_by_role("link", name="Skip to the prompt")).to_be_focused()
        keys.press("Enter")
        expect(page.get_by_label("Prompt")).to_be_focused()
        keys.press("ControlOrMeta+a")
        keys.type("Hello")
        keys.press("Control+Enter")
        tokens(page).nth(9).wait_for()
        expect(page.locator(".writing")).to_have_count(0)
        for _ in range(12):
            keys.press("Tab")
            if page.evaluate("document.activeElement.className") == "token":
                break
        expect(tokens(page).first).to_be_focused()
        keys.press("ArrowRight")
        keys.press("ArrowRight")
        expect(tokens(page).nth(2)).to_be_focused()
        keys.press("Enter")
        expect(page.get_by_role("table")).to_be_visible()
        expect(page.locator("#layers-title")).to_be_focused()
        expect(tokens(page).nth(2)).to_have_attribute("aria-current", "true")
        keys.press("Escape")
        expect(tokens(page).nth(2)).to_be_focused()
        keys.press("End")
        expect(tokens(page).last).to_be_focused()
        keys.press("ArrowUp")
        expect(tokens(page).last).not_to_be_focused()


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_axe_finds_nothing_and_every_depth_can_be_read(site, visit, colours):
    with visit(
        link(site, a="early_exit", a_threshold=0.5, b="contrast"), color_scheme=colours
    ) as page:
        write(page)
        open_layers(page, 2)
        found = Axe().run(page)
        assert [(each["id"], each["nodes"][0]["html"]) for each in found["violations"]] == []
        for depth in (0, 0.25, 0.5, 0.75, 1):
            assert page.locator(".token").first.evaluate(CONTRAST, depth) >= 4.5


def test_the_switch_of_colours_holds_over_a_reload(site, visit):
    with visit(site, color_scheme="light") as page:
        ground = "getComputedStyle(document.documentElement).backgroundColor"
        light = page.evaluate(ground)
        page.get_by_text("Dark", exact=True).click()
        dark = page.evaluate(ground)
        page.reload()

        assert page.evaluate(ground) == dark != light
        expect(page.locator("[name=theme][value=dark]")).to_be_checked()


def test_an_elmer_model_takes_a_text_and_shows_where_each_place_left(site, visit):
    with visit(site) as page:
        page.get_by_label("Model").select_option("elmer")
        for label in ("Temperature", "Seed", "Compare two"):
            expect(page.get_by_label(label)).to_be_hidden()
        page.get_by_label("Prompt").fill(PROMPT)
        write(page)
        assert tokens(page).count() > 0
        spelled = tokens(page).all_text_contents()
        for index in (0, len(spelled) - 1):
            open_layers(page, index)
            expect(page.locator("#layers")).to_have_attribute("aria-busy", "false")
            assert rows(page)[-1][1].strip() == spelled[index].strip()


SHOWN = """tokens => tokens.map((token) => {
  const style = getComputedStyle(token);
  return [
    Number(token.dataset.exit), token.ariaLabel, style.backgroundColor, style.backgroundSize,
  ];
})"""
CONTRAST = """(element, depth) => {
  element.style.setProperty("--depth", depth);
  const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const light = (colour) => {
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 1, 1);
    const linear = [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3).map((byte) => {
      const share = byte / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const style = getComputedStyle(element);
  const [low, high] = [light(style.color), light(style.backgroundColor)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}"""
