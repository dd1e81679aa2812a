"""Take the pictures of the server's page that the documentation shows.

Starts ``offramp serve`` on a free port with the default model, opens its page in the system's
Chromium, writes for real, and stores three pictures. Needs the extra ``serve``, playwright (for
Python; no browser of its own) and Debian's ``chromium``.

Example:
    python examples/page_pictures.py --output docs/images
"""

import argparse
import io
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

from PIL import Image
from playwright.sync_api import expect, sync_playwright

EARLY = {
    "prompt": "What is a lighthouse for? Answer in two sentences.",
    "tokens": 64,
    "a": "early_exit",
    "a.threshold": "0.8",
}
ACD = {
    "prompt": "In the middle of the city there is a small garden where",
    "mode": "completion",
    "tokens": 40,
    "a": "plain",
    "b": "contrast",
    "b.lower": 12,
}
PICTURES = {
    "page.png": ("light", {"width": 1280, "height": 800}, EARLY),
    "page-dark.png": ("dark", {"width": 1280, "height": 800}, ACD),
    "page-phone.png": ("light", {"width": 360, "height": 740}, EARLY),
}
"""Name of the file, colours, size of the window, what is asked."""
EARLY_TOKEN = ".token:not([data-exit='30'])"
"""Tokens that left before the last layer."""
SLOW = 120_000
"""Milliseconds that a text may take on a busy machine."""
LARGEST = 250_000
"""Bytes of a picture."""


@contextmanager
def serving():
    """Run ``offramp serve`` and give its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "offramp.cli", "serve", "--port", str(port)]
    server = subprocess.Popen(command)
    try:
        while True:
            if server.poll() is not None:
                raise SystemExit(f"offramp serve ended with exit code {server.returncode}")
            try:
                urlopen(f"{address}/healthz", timeout=5).close()
                break
            except (URLError, OSError):
                time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait()


def taken_of(browser, address, *, colours, size, asked):
    """Write, open the layers of an interesting token, and give a PNG of the whole page."""
    page = browser.new_page(color_scheme=colours, viewport=size, device_scale_factor=2)
    page.goto(f"{address}/#{urlencode(asked)}")
    page.get_by_role("button", name="Write").click()
    expect(page.get_by_role("button", name="Write")).to_be_enabled(timeout=SLOW)
    chosen = (
        page.locator(".token.differs").last if "b" in asked else page.locator(EARLY_TOKEN).first
    )
    chosen.click()
    expect(page.get_by_role("table")).to_be_visible(timeout=SLOW)
    page.mouse.move(0, 0)
    page.locator("h1").scroll_into_view_if_needed()
    taken = page.screenshot(full_page=True)
    page.close()
    return taken


def smaller(taken: bytes) -> bytes:
    """Store a PNG in 256 colours, which is all that the page needs."""
    stored = io.BytesIO()
    picture = Image.open(io.BytesIO(taken)).convert("RGB")
    picture.quantize(256, kmeans=2).save(stored, "PNG", optimize=True)
    return stored.getvalue()


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("docs/images"), help="a folder")
    folder = parser.parse_args().output
    found = shutil.which("chromium") or sys.exit("no chromium here: apt-get install chromium")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with serving() as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=sandbox)
        for name, (colours, size, asked) in PICTURES.items():
            stored = smaller(taken_of(browser, address, colours=colours, size=size, asked=asked))
            if len(stored) > LARGEST:
                sys.exit(f"{name} has {len(stored)} bytes, more than {LARGEST}; show less")
            (folder / name).write_bytes(stored)
            print(f"{name}: {len(stored)} bytes")


if __name__ == "__main__":
    main()
