"""Keep the states of exits in a folder that later runs train from without the text.

In:  ``--keep-states``, and what the states were made of. Out: a folder with ``text.json``, which
     says what its states are of and whether they are all there.
Law: states of other text, other positions or other batches are never trained on
     (tests/cli/test_train.py). Of a stream only the name is compared, not what it held.
Not here: the states themselves (offramp.training.states).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offramp.cli.journal import differences
from offramp.errors import ConfigError, InputError, first_line
from offramp.models.files import json_of
from offramp.whole import write_text_whole

NAME = "text.json"


class KeptText:
    """What the states of a folder were made of.

    Attributes:
        folder: Where they are.
        facts: Text and what it held, positions and batch size; None if the folder has none yet.
        positions: How many positions are kept; 0 until all are.
    """

    def __init__(self, folder: Path) -> None:
        """Read it.

        Raises:
            InputError: The file is damaged.
        """
        self.folder = folder
        self.facts: Any = None
        self.positions = 0
        try:
            found = json_of((folder / NAME).read_text(encoding="utf-8"))
            self.facts, self.positions = dict(found["facts"]), found["positions"]
            if not isinstance(self.positions, int) or self.positions < 0:
                raise ValueError(f"positions {self.positions!r}")
        except FileNotFoundError:
            pass
        except (OSError, ValueError, LookupError, TypeError) as error:
            told = first_line(error)
            raise InputError(
                f"{folder / NAME} is not what --keep-states writes ({told}); name another folder"
            ) from None

    def check(self, **asked: Any) -> None:
        """Refuse to train from states of something else.

        Args:
            **asked: Facts that the user named; the others are taken as they are.

        Raises:
            ConfigError: One of them is not that of the folder.
        """
        for name, value in asked.items():
            told = ", ".join(differences(self.facts.get(name), json.loads(json.dumps(value)), name))
            if told:
                raise ConfigError(
                    f"{self.folder} keeps states of something else ({told}); leave these options "
                    "out to train from them, or name another --keep-states"
                )

    def write(self, facts: Mapping[str, Any], *, positions: int) -> None:
        """Note what the states are of, and how many there are once all are there.

        Raises:
            InputError: The folder cannot be written.
        """
        path = self.folder / NAME
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"facts": facts, "positions": positions})
            write_text_whole(path, text + "\n")
        except OSError as error:
            raise InputError(
                f"cannot write {path}: {error.strerror or error}; name another --keep-states"
            ) from None
        self.facts, self.positions = json.loads(json.dumps(facts)), positions
