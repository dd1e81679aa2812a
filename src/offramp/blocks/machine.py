"""Say on which machine, and with what, something was measured."""

import platform
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


def processor_name() -> str:
    """Name the processor, as the system tells it."""
    if CPU_INFO.is_file():
        for line in CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
