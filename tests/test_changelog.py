"""The changelog and the package name the same version."""

import re
from pathlib import Path

from offramp.version import __version__

CHANGELOG = Path(__file__).parents[1] / "CHANGELOG.md"


def test_the_top_version_of_the_changelog_is_the_packages():
    headings = re.findall(r"^## \[(\d[^\]]*)\] - (.*)$", CHANGELOG.read_text("utf-8"), re.MULTILINE)

    version, date = headings[0]

    assert version == __version__
    assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", date)
