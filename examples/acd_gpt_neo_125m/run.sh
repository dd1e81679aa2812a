#!/usr/bin/env bash
# GPT-Neo 125M with six heads, as the second model of auto-contrastive decoding (Gera et al. 2023, arXiv:2305.01628).
#
#     bash examples/acd_gpt_neo_125m/run.sh FOLDER            the full size; FOLDER holds cc100.txt
#     bash examples/acd_gpt_neo_125m/run.sh --smoke FOLDER    seconds, on one core; FOLDER is new
#
# Data, hardware and hours: examples/README.md.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [[ ${1:-} == --smoke ]]; then
  folder=${2:?name a new folder}
  python "$here/../smoke.py" "$folder"
  model=$folder/gpt_neo launch=$here/../accelerate/smoke.yaml
  train=(--limit 1200 --device cpu)
  measure=(--data "$folder/held-out.txt" --limit 400 --device cpu)
  write=(--data "$folder/held-out.txt" --limit 2 --prompt-words 4 --max-new-tokens 4)
  write+=(--strategies 'greedy;top-p:0.95' --samples 100 --embeddings none --device cpu)
else
  folder=${1:?name the folder that holds cc100.txt, or --smoke and a new one}
  model=EleutherAI/gpt-neo-125m launch=$here/../accelerate/4_gpus.yaml
  train=(--limit 153600000 --precision bfloat16)
  wikitext=(--data Salesforce/wikitext:wikitext-103-raw-v1 --split test)
  measure=("${wikitext[@]}")
  write=("${wikitext[@]}" --limit 1000 --batch-size 32)
fi

# Six heads of their own on the frozen base: AdamW 2e-4 linear, 3 epochs, blocks of 512, 16 a process.
accelerate launch --config_file "$launch" -m offramp.cli train --recipe published \
  --model "$model" --exits '2;4;6;8;10;12' --data "$folder/cc100.txt" --output "$folder/exits" "${train[@]}"

# Every exit, and the contrast, on text that nobody trained on.
offramp evaluate --model "$model" --exits-from "$folder/exits" --contrast original:6 \
  --picture "$folder/exits.svg" "${measure[@]}"

# The paper's open-ended generation: greedy, beam search, top-k 50 and top-p 0.95.
offramp evaluate --open-ended --model "$model" --exits-from "$folder/exits" \
  --ways 'original;exit:8;contrast:original:6;contrast:12:6;dola:low' \
  --output "$folder/texts.jsonl" --picture "$folder/texts.svg" "${write[@]}"
