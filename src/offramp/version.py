"""The package's version; CHANGELOG.md starts with the same one."""

__version__ = "0.1.0"
