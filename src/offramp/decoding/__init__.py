"""Choose, per call, which exits answer, and how many blocks each token is worth."""

from offramp.decoding.early_exit import EarlyExit
from offramp.decoding.rules import Contrast, DoLa, FixedExit
from offramp.decoding.speculation import Autoregressive, SelfSpeculation

__all__ = ["Autoregressive", "Contrast", "DoLa", "EarlyExit", "FixedExit", "SelfSpeculation"]
