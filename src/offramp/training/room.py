"""Say which targets find room on the canvas that their source gives.

In:  an ELMER model's configuration, tokenised pairs. Out: yes or no for each.
Law: a pair has room exactly where the loss of a ``ctc`` or ``dag`` head is finite, or where
     ``generate`` can write the whole target (tests/training/test_finetuning.py).
Not here: canvases (offramp.models.elmer.canvas).
"""

from collections.abc import Mapping, Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from offramp.logits.labels import NO_LABEL
from offramp.models.elmer import ElmerConfig
from offramp.models.elmer.canvas import mask_of, source_sizes
from offramp.models.elmer.learning import target_for

TOGETHER = 4096
"""Rows whose targets are laid side by side."""

REMEDY = "raise canvas_ratio or canvas_extra"


def have_room(config: ElmerConfig, rows: Sequence[Mapping[str, Sequence[int]]]) -> list[bool]:
    """Tell which rows' targets their canvases hold.

    Args:
        config: Of the model. With a length predictor there is always room.
        rows: With ``input_ids`` and ``labels``.
    """
    found: list[bool] = []
    for start in range(0, len(rows), TOGETHER):
        some = rows[start : start + TOGETHER]
        sizes = source_sizes(config, torch.tensor([len(row["input_ids"]) for row in some]))
        targets = [torch.tensor(row["labels"]) for row in some]
        if config.output_head == "plain":
            lengths = torch.tensor([len(each) for each in targets])
            room = (lengths <= sizes) | config.length_predictor
        else:
            labels = pad_sequence(targets, batch_first=True, padding_value=NO_LABEL)
            room = target_for(config, labels, mask_of(sizes)).fits
        found += room.tolist()
    return found
