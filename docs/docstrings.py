"""Let mkdocstrings read our docstrings: it knows the section "Examples:", we write "Example:"."""

import re
from typing import Any

import griffe


class ExampleSections(griffe.Extension):
    """Show an Example section as a program, not as running text."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rename the section once an object is loaded."""
        if obj.docstring:
            text = obj.docstring.value
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
