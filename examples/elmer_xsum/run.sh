#!/usr/bin/env bash
# ELMER fine-tuned: summaries of news in a sentence, XSUM (Li et al. 2022, arXiv:2210.13304).
#
#     bash examples/elmer_xsum/run.sh FOLDER            the full size; FOLDER holds pretrained/ (what
#         examples/elmer_pretrain writes) and xsum/ with GLGE's {train,dev,test}.{src,tgt}
#     bash examples/elmer_xsum/run.sh --smoke FOLDER    seconds, on one core; FOLDER is new
#
# Data, hardware and hours: examples/README.md.
set -euo pipefail

# Measured: ROUGE-1, -2 and -L.
task=xsum longest=64 room=72 scores=rouge metric=rougeL
source "$(dirname "${BASH_SOURCE[0]}")/../elmer_finetune.sh"
