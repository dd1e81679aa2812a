#!/usr/bin/env bash
# ELMER fine-tuned: a turn of a dialogue with a persona, PersonaChat (Li et al. 2022, arXiv:2210.13304).
#
#     bash examples/elmer_personachat/run.sh FOLDER            the full size; FOLDER holds pretrained/ (what
#         examples/elmer_pretrain writes) and personachat/ with GLGE's {train,dev,test}.{src,tgt}
#     bash examples/elmer_personachat/run.sh --smoke FOLDER    seconds, on one core; FOLDER is new
#
# Data, hardware and hours: examples/README.md.
set -euo pipefail

# Measured: BLEU-1, -2, Distinct-1 and -2 by field_scores.py.
task=personachat longest=32 room=40 scores=bleu metric=bleu
source "$(dirname "${BASH_SOURCE[0]}")/../elmer_finetune.sh"
