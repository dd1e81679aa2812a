"""The public surface: every name is there, sorted and documented, and none costs torch."""

import subprocess
import sys

import offramp


def test_public_names_are_sorted_and_importable():
    assert offramp.__all__ == sorted(offramp.__all__)
    assert all(getattr(offramp, name) is not None for name in offramp.__all__)
    assert set(offramp._HOMES) <= set(offramp.__all__)


def test_public_names_have_docstrings():
    named = [getattr(offramp, name) for name in offramp.__all__ if not name.startswith("__")]

    assert all(each.__doc__ for each in named)


def test_importing_the_package_does_not_import_torch():
    script = "import sys, offramp, offramp.cli; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
