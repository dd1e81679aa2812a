"""The tiny models of the command line's tests."""

from cli.conftest import make_elmer, make_folder

__all__ = ["make_elmer", "make_folder"]
