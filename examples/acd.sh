# What the two examples of auto-contrastive decoding do; sourced by their run.sh with its arguments,
# after it has set
#
#     hub, small     the base: its name on the hub, and its folder at smoke size
#     heads          exits that get a head of their own
#     contrast, ways the contrast that is measured, and all ways that go on with texts
#
# Heads of their own on the frozen base: AdamW 2e-4 linear, 3 epochs, blocks of 512, 16 a process.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [[ ${1:-} == --smoke ]]; then
  folder=${2:?name a new folder}
  python "$here/smoke.py" "$folder"
  model=$folder/$small launch=$here/accelerate/smoke.yaml
  train=(--limit 1200 --device cpu)
  measure=(--data "$folder/held-out.txt" --limit 400 --device cpu)
  write=(--data "$folder/held-out.txt" --limit 2 --prompt-words 4 --max-new-tokens 4)
  write+=(--strategies 'greedy;top-p:0.95' --samples 100 --embeddings none --device cpu)
else
  folder=${1:?name the folder that holds cc100.txt, or --smoke and a new one}
  model=$hub launch=$here/accelerate/4_gpus.yaml
  train=(--limit 153600000 --precision bfloat16)
  wikitext=(--data Salesforce/wikitext:wikitext-103-raw-v1 --split test)
  measure=("${wikitext[@]}")
  write=("${wikitext[@]}" --limit 1000 --batch-size 32)
fi

accelerate launch --config_file "$launch" -m offramp.cli train --recipe published \
  --model "$model" --exits "$heads" --data "$folder/cc100.txt" --output "$folder/exits" "${train[@]}"

# Every exit, and the contrast, on text that nobody trained on.
offramp evaluate --model "$model" --exits-from "$folder/exits" --contrast "$contrast" \
  --picture "$folder/exits.svg" "${measure[@]}"

# The paper's open-ended generation: greedy, beam search, top-k 50 and top-p 0.95.
offramp evaluate --open-ended --model "$model" --exits-from "$folder/exits" --ways "$ways" \
  --output "$folder/texts.jsonl" --picture "$folder/texts.svg" "${write[@]}"
