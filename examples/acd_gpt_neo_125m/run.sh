#!/usr/bin/env bash
# GPT-Neo 125M with six heads, as the second model of auto-contrastive decoding (Gera et al. 2023, arXiv:2305.01628).
#
#     bash examples/acd_gpt_neo_125m/run.sh FOLDER            the full size; FOLDER holds cc100.txt
#     bash examples/acd_gpt_neo_125m/run.sh --smoke FOLDER    seconds, on one core; FOLDER is new
#
# Data, hardware and hours: examples/README.md.
set -euo pipefail

hub=EleutherAI/gpt-neo-125m small=gpt_neo
heads='2;4;6;8;10;12'
contrast=original:6
ways='original;exit:8;contrast:original:6;contrast:12:6;dola:low'
source "$(dirname "${BASH_SOURCE[0]}")/../acd.sh"
