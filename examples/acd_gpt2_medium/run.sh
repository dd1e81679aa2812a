#!/usr/bin/env bash
# GPT-2 medium with twelve heads, as the first model of auto-contrastive decoding (Gera et al. 2023, arXiv:2305.01628).
#
#     bash examples/acd_gpt2_medium/run.sh FOLDER            the full size; FOLDER holds cc100.txt
#     bash examples/acd_gpt2_medium/run.sh --smoke FOLDER    seconds, on one core; FOLDER is new
#
# Data, hardware and hours: examples/README.md.
set -euo pipefail

hub=openai-community/gpt2-medium small=gpt2
heads='2;4;6;8;10;12;14;16;18;20;22;24'
contrast=original:12
ways='original;exit:18;contrast:original:12;contrast:24:12;dola:low'
source "$(dirname "${BASH_SOURCE[0]}")/../acd.sh"
