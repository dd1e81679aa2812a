"""Say on which machine, and with what, something was measured."""

import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers

CPU_INFO = Path("/proc/cpuinfo")


def machine_facts(model: Any) -> dict[str, Any]:
    """Name the processor, threads, versions and number format that a model runs with.

    Args:
        model: Any model of transformers.

    Example:
        >>> from torch import nn
        >>> sorted(machine_facts(nn.Linear(1, 1)))
        ['device', 'dtype', 'processor', 'threads', 'torch', 'transformers']
    """
    weight = next(model.parameters())
    device = str(weight.device.type)
    if weight.device.type == "cuda":
        device = torch.cuda.get_device_name(weight.device)
    return {
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "device": device,
        "dtype": str(weight.dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


@cache
def processor_name() -> str:
    """Name the processor, as the system tells it."""
    for line in _processor_facts().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


@cache
def is_intel() -> bool:
    """Tell whether MKL runs on a processor that it was made for."""
    return "GenuineIntel" in (_processor_facts() or platform.processor())


@cache
def _processor_facts() -> str:
    """Give what the system tells of its processors; nothing where it keeps no such file."""
    try:
        return CPU_INFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
