#!/usr/bin/env bash
# ELMER at base size (Li et al. 2022, arXiv:2210.13304): layer permutation language modeling on books
# and Wikipedia, from random weights.
#
#     bash examples/elmer_pretrain/run.sh FOLDER            the full size; FOLDER/books holds the books
#     bash examples/elmer_pretrain/run.sh --smoke FOLDER    seconds, on one core; FOLDER is new
#
# Data, hardware and hours: examples/README.md.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [[ ${1:-} == --smoke ]]; then
  folder=${2:?name a new folder}
  python "$here/../smoke.py" "$folder"
  launch=$here/../accelerate/smoke.yaml
  text=(--text "$folder/books/text.txt")
  size=(--rows-per-step 4 --batch-size 4 --block-size 64 --max-steps 2 --workers 0 --device cpu)
else
  folder=${1:?name the folder whose books/ holds text, or --smoke and a new one}
  launch=$here/../accelerate/8_gpus.yaml
  mkdir -p "$folder/elmer"
  cp "$here/config.json" "$folder/elmer/"
  python -c 'import sys; from transformers import AutoTokenizer as A; A.from_pretrained("facebook/bart-base").save_pretrained(sys.argv[1])' "$folder/elmer"
  text=(--text "$folder/books" --text wikimedia/wikipedia:20231101.en)
  size=(--rows-per-step 4096 --batch-size 16 --epochs 10 --precision bfloat16 --workers 4)
fi

# The published numbers (those of --recipe published), but in bfloat16.
accelerate launch --config_file "$launch" -m offramp.cli pretrain --model "$folder/elmer" \
  --learning-rate 2e-5 --schedule constant --warmup 0 --weight-decay 0 --beta2 0.999 --clip 2 \
  "${text[@]}" --output "$folder/pretrained" "${size[@]}"
