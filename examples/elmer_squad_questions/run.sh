#!/usr/bin/env bash
# ELMER fine-tuned: questions for an answer in a paragraph, SQuAD 1.1 (Li et al. 2022, arXiv:2210.13304).
#
#     bash examples/elmer_squad_questions/run.sh FOLDER            the full size; FOLDER holds pretrained/ (what
#         examples/elmer_pretrain writes) and squadqg/ with GLGE's {train,dev,test}.{src,tgt}
#     bash examples/elmer_squad_questions/run.sh --smoke FOLDER    seconds, on one core; FOLDER is new
#
# Data, hardware and hours: examples/README.md.
set -euo pipefail

# Measured: ROUGE-L, and BLEU-4 by field_scores.py.
task=squadqg longest=32 room=40 scores=rouge metric=rougeL
source "$(dirname "${BASH_SOURCE[0]}")/../elmer_finetune.sh"
