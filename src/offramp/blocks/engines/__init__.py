"""Run some blocks of a model for some tokens of several texts: the loops' only way to a model."""

from offramp.blocks.engines.engine import Engine, Piece, Row
from offramp.blocks.engines.pick import engine_for, engine_for_many

__all__ = ["Engine", "Piece", "Row", "engine_for", "engine_for_many"]
