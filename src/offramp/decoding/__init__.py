"""Choose, per call, which exits answer: one exit, ACD or DoLa."""

from offramp.decoding.rules import Contrast, DoLa, FixedExit

__all__ = ["Contrast", "DoLa", "FixedExit"]
