"""Language models that answer from any of their layers.

Exits at chosen layers of any transformers model, contrast between them, one answer from any.
"""

from offramp.blocks.anatomy import Layout
from offramp.config import VocabularyProjectionMode
from offramp.decoding import Contrast, DoLa, FixedExit
from offramp.errors import OfframpError
from offramp.logits.contrast import contrast_logits
from offramp.logits.dola import dola_logits
from offramp.models.attach import attach_exits
from offramp.models.auto import AutoMultiExitModel
from offramp.models.configuration import MultiExitConfiguration
from offramp.models.embedded import load_default
from offramp.models.multiexit import MultiExitModel
from offramp.models.storage import save_exits, save_published
from offramp.version import __version__

__all__ = [
    "AutoMultiExitModel",
    "Contrast",
    "DoLa",
    "FixedExit",
    "Layout",
    "MultiExitConfiguration",
    "MultiExitModel",
    "OfframpError",
    "VocabularyProjectionMode",
    "__version__",
    "attach_exits",
    "contrast_logits",
    "dola_logits",
    "load_default",
    "save_exits",
    "save_published",
]
