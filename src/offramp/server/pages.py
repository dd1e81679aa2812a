"""Serve the page: files of the package, and nothing else.

In:  a path. Out: a file, with a policy that lets it read nothing from elsewhere.
Law: only files that lay in the folder when the app was made are given (tests/server/test_app.py).
Not here: the page itself (offramp.server.page).
"""

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import Response

FOLDER = Path(__file__).parent / "page"
INDEX = "index.html"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; manifest-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


def add_page(app: FastAPI, folder: Path = FOLDER) -> tuple[str, ...]:
    """Let an app give the files of a folder, ``index.html`` at ``/``.

    Args:
        app: To add to.
        folder: Of the files; those in folders below it are not given.

    Returns:
        Their paths.
    """
    files = {each.name: each for each in sorted(folder.iterdir()) if each.suffix in TYPES}
    paths = {f"/{name}": path for name, path in files.items() if name != INDEX}
    if INDEX in files:
        paths["/"] = files[INDEX]
    for path, file in paths.items():
        app.add_api_route(path, _giver(file), methods=["GET", "HEAD"], include_in_schema=False)
    return tuple(paths)


def _giver(file: Path) -> Callable[[], Awaitable[Response]]:
    content, media_type = file.read_bytes(), TYPES[file.suffix]

    async def give() -> Response:
        headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
        return Response(content, media_type=media_type, headers=headers)

    return give
