"""What workers of a cluster do in tests; they import it by name."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from offramp.errors import InputError


@dataclass(frozen=True)
class Make:
    """Makes what squares a number, refuses one, and dies of another until it died so often."""

    folder: str
    refused: int = -1
    deadly: int = -1
    deaths: int = 1

    def __call__(self):
        return self.do

    def do(self, number):
        if number == self.deadly and len(os.listdir(self.folder)) < self.deaths:
            Path(self.folder, f"{time.time_ns()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if number == self.refused:
            raise InputError(f"no {number}; take another")
        time.sleep(0.01)
        return number * number, os.getpid()


def workers():
    """The processes of this cluster that hold models."""
    found = psutil.Process().children(recursive=True)
    return [each for each in found if "MapWorker" in " ".join(_name(each))]


def _name(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []
