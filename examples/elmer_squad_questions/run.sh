#!/usr/bin/env bash
# ELMER fine-tuned: questions for an answer in a paragraph, SQuAD 1.1 (Li et al. 2022, arXiv:2210.13304).
#
#     bash examples/elmer_squad_questions/run.sh FOLDER            the full size; FOLDER holds pretrained/ (what
#         examples/elmer_pretrain writes) and squadqg/ with GLGE's {train,dev,test}.{src,tgt}
#     bash examples/elmer_squad_questions/run.sh --smoke FOLDER    seconds, on one core; FOLDER is new
#
# Data, hardware and hours: examples/README.md.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [[ ${1:-} == --smoke ]]; then
  folder=${2:?name a new folder}
  python "$here/../smoke.py" "$folder"
  start=$folder/elmer launch=$here/../accelerate/smoke.yaml fresh=(--from-scratch)
  size=(--batch-size 4 --max-steps 2 --eval-steps 1 --eval-rows 2 --max-source 96 --device cpu)
  measure=(--max-source-tokens 96 --samples 100 --device cpu)
else
  folder=${1:?name the folder that holds pretrained/ and squadqg/, or --smoke and a new one}
  start=$folder/pretrained launch=$here/../accelerate/4_gpus.yaml fresh=()
  size=(--batch-size 8 --epochs 100 --eval-steps 5000 --max-source 512 --max-target 32)
  measure=(--max-source-tokens 512 --batch-size 32)
fi
for part in train dev test; do
  python "$here/../pairs.py" "$folder/squadqg/$part.src" "$folder/squadqg/$part.tgt" \
    "$folder/squadqg/$part.jsonl"
done
# The canvas that a source gets: no reference is looked at.
python "$here/../adapt.py" "$start" "$folder/squadqg-start" canvas_ratio=0.0 canvas_extra=40

# Published: Adam 2e-5 constant, batches of 32, 100 epochs, the mean loss of all exits. The gates are ours.
accelerate launch --config_file "$launch" -m offramp.cli finetune --model "$folder/squadqg-start" \
  --pairs "$folder/squadqg/train.jsonl" --held-out "$folder/squadqg/dev.jsonl" \
  --learning-rate 2e-5 --schedule constant --warmup 0 --weight-decay 0 --gates \
  --metrics rouge --metric rougeL --output "$folder/squadqg-model" "${fresh[@]}" "${size[@]}"

# All exits: ROUGE-L, and BLEU-4 by field_scores.py; then with places leaving by their gates.
offramp evaluate --model "$folder/squadqg-model" --pairs "$folder/squadqg/test.jsonl" \
  --output "$folder/squadqg-texts.jsonl" "${measure[@]}"
python "$here/../field_scores.py" "$folder/squadqg-texts.jsonl"
offramp evaluate --model "$folder/squadqg-model" --pairs "$folder/squadqg/test.jsonl" --early-exit gate \
  --metrics rouge "${measure[@]}"
