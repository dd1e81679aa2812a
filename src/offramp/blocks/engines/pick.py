"""Choose the engine for a model."""

from offramp.blocks.anatomy import Anatomy
from offramp.blocks.engines.engine import Engine
from offramp.blocks.engines.family import FamilyEngine
from offramp.blocks.engines.plain import PlainEngine, fits
from offramp.blocks.products import copies_fit, is_helped, matrices_of
from offramp.errors import ConfigError

ONNX = ("onnxruntime", "onnxruntime-int8", "onnxruntime-int4")
"""Engines of the extra ``onnx``: weights of 32, 8 and 4 bits."""


def engine_for(anatomy: Anatomy, name: str = "auto") -> Engine:
    """Give the engine of a name, or the fastest that computes what the model's own blocks do.

    Args:
        anatomy: The model's parts.
        name: ``"plain"``, ``"packed"`` (plain, with the blocks' matrices once more in memory, laid
            out for 4 to 47 tokens at a time), ``"family"``, one of ``ONNX``, or ``"auto"``: plain
            where it fits.

    Raises:
        ConfigError: No such engine, it does not know this family, or its packages are missing.
    """
    if name in ONNX:
        return _onnx(anatomy, name)
    if name == "family" or (name == "auto" and not fits(anatomy)):
        return FamilyEngine(anatomy)
    if name not in ("auto", "plain", "packed"):
        raise ConfigError(f"no engine {name!r}; use auto, plain, packed, family, {', '.join(ONNX)}")
    if not fits(anatomy):
        raise ConfigError(
            f"engine {name!r} does not know the blocks of {anatomy.config.model_type} (or they "
            "have sliding windows, are on several devices or in training); use 'family'"
        )
    return PlainEngine(anatomy, packed=name == "packed")


def engine_for_many(anatomy: Anatomy) -> Engine:
    """Give the fastest engine for several texts at a time: packed, where memory allows.

    Args:
        anatomy: The model's parts.
    """
    matrices = matrices_of(anatomy.blocks)
    packed = fits(anatomy) and copies_fit(matrices) and all(map(is_helped, matrices))
    return engine_for(anatomy, "packed" if packed else "auto")


def _onnx(anatomy: Anatomy, name: str) -> Engine:
    try:
        from offramp.blocks.engines.onnx import (  # noqa: PLC0415 - only the extra "onnx" has it
            OnnxEngine,
            fits_onnx,
        )
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"engine {name!r} needs the package {error.name}; pip install 'offramp[onnx]'"
        ) from error
    if not fits_onnx(anatomy):
        raise ConfigError(
            f"engine {name!r} runs Llama's layout in float32 on the processor, with plain linear "
            f"layers, SiLU and fixed rotary tables; this {anatomy.config.model_type} is not that; "
            "use 'auto'"
        )
    return OnnxEngine(anatomy, name)
