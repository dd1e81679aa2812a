"""Language models that answer from any of their layers."""

from offramp.decoding import Contrast, DoLa, FixedExit
from offramp.models.configuration import MultiExitConfiguration
from offramp.models.multiexit import attach_exits
