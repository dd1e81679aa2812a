"""Language models that answer from any of their layers.

Exits at chosen layers of any transformers model, contrast between them, one answer from any.

The public names are imported when they are first used, so that ``offramp --help`` and an error in
an option need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from offramp.errors import OfframpError
from offramp.version import __version__

if TYPE_CHECKING:
    from offramp.blocks.anatomy import Layout
    from offramp.config import VocabularyProjectionMode
    from offramp.decoding.early_exit import EarlyExit
    from offramp.decoding.oneshot import OneShot
    from offramp.decoding.rules import Contrast, DoLa, FixedExit
    from offramp.decoding.speculation import Autoregressive, SelfSpeculation
    from offramp.logits.contrast import contrast_logits
    from offramp.logits.dola import dola_logits
    from offramp.models.attach import attach_exits
    from offramp.models.auto import AutoMultiExitModel
    from offramp.models.configuration import MultiExitConfiguration
    from offramp.models.elmer import ElmerTokenizer
    from offramp.models.elmer.backbone import ElmerModel
    from offramp.models.elmer.configuration import ElmerConfig
    from offramp.models.elmer.modeling import ElmerForConditionalGeneration
    from offramp.models.embedded import load_default
    from offramp.models.export import export_exit
    from offramp.models.multiexit import MultiExitModel
    from offramp.models.shipped import load_elmer
    from offramp.models.storage import save_exits, save_published
    from offramp.trace.record import Trace
    from offramp.training.closed_form import fit_closed_form
    from offramp.training.data import Collator, DataSettings, load_rows
    from offramp.training.exits import train_exits
    from offramp.training.finetuning import finetune
    from offramp.training.finetuning_settings import FinetuneSettings
    from offramp.training.gates import train_gates
    from offramp.training.pretraining import pretrain
    from offramp.training.pretraining_settings import PretrainSettings
    from offramp.training.self_text import SelfText, write_self_text
    from offramp.training.settings import TrainSettings

__all__ = [
    "AutoMultiExitModel",
    "Autoregressive",
    "Collator",
    "Contrast",
    "DataSettings",
    "DoLa",
    "EarlyExit",
    "ElmerConfig",
    "ElmerForConditionalGeneration",
    "ElmerModel",
    "ElmerTokenizer",
    "FinetuneSettings",
    "FixedExit",
    "Layout",
    "MultiExitConfiguration",
    "MultiExitModel",
    "OfframpError",
    "OneShot",
    "PretrainSettings",
    "SelfSpeculation",
    "SelfText",
    "Trace",
    "TrainSettings",
    "VocabularyProjectionMode",
    "__version__",
    "attach_exits",
    "contrast_logits",
    "dola_logits",
    "export_exit",
    "finetune",
    "fit_closed_form",
    "load_default",
    "load_elmer",
    "load_rows",
    "pretrain",
    "save_exits",
    "save_published",
    "train_exits",
    "train_gates",
    "write_self_text",
]

_HOMES = {
    "AutoMultiExitModel": "offramp.models.auto",
    "Autoregressive": "offramp.decoding.speculation",
    "Collator": "offramp.training.data",
    "Contrast": "offramp.decoding.rules",
    "DataSettings": "offramp.training.data",
    "DoLa": "offramp.decoding.rules",
    "EarlyExit": "offramp.decoding.early_exit",
    "ElmerConfig": "offramp.models.elmer.configuration",
    "ElmerForConditionalGeneration": "offramp.models.elmer.modeling",
    "ElmerModel": "offramp.models.elmer.backbone",
    "ElmerTokenizer": "offramp.models.elmer",
    "FinetuneSettings": "offramp.training.finetuning_settings",
    "FixedExit": "offramp.decoding.rules",
    "Layout": "offramp.blocks.anatomy",
    "MultiExitConfiguration": "offramp.models.configuration",
    "MultiExitModel": "offramp.models.multiexit",
    "OneShot": "offramp.decoding.oneshot",
    "PretrainSettings": "offramp.training.pretraining_settings",
    "SelfSpeculation": "offramp.decoding.speculation",
    "SelfText": "offramp.training.self_text",
    "Trace": "offramp.trace.record",
    "TrainSettings": "offramp.training.settings",
    "VocabularyProjectionMode": "offramp.config",
    "attach_exits": "offramp.models.attach",
    "contrast_logits": "offramp.logits.contrast",
    "dola_logits": "offramp.logits.dola",
    "export_exit": "offramp.models.export",
    "finetune": "offramp.training.finetuning",
    "fit_closed_form": "offramp.training.closed_form",
    "load_default": "offramp.models.embedded",
    "load_elmer": "offramp.models.shipped",
    "load_rows": "offramp.training.data",
    "pretrain": "offramp.training.pretraining",
    "save_exits": "offramp.models.storage",
    "save_published": "offramp.models.storage",
    "train_exits": "offramp.training.exits",
    "train_gates": "offramp.training.gates",
    "write_self_text": "offramp.training.self_text",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'offramp' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
