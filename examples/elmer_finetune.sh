# What the three fine-tuning examples do; sourced by their run.sh with its arguments, after it has set
#
#     task      folder of GLGE's {train,dev,test}.{src,tgt}
#     longest   tokens of a target in training
#     room      places of the canvas that a source gets: no reference is looked at
#     scores    group of scores that is measured while training, and with gates
#     metric    score by which the best checkpoint is kept
#
# Published: Adam 2e-5 constant, batches of 32, 100 epochs, the mean loss of all exits. The gates are ours.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [[ ${1:-} == --smoke ]]; then
  folder=${2:?name a new folder}
  python "$here/smoke.py" "$folder"
  start=$folder/elmer launch=$here/accelerate/smoke.yaml fresh=(--from-scratch)
  size=(--batch-size 4 --max-steps 2 --eval-steps 1 --eval-rows 2 --max-source 96 --device cpu)
  measure=(--max-source-tokens 96 --samples 100 --device cpu)
else
  folder=${1:?name the folder that holds pretrained/ and $task/, or --smoke and a new one}
  start=$folder/pretrained launch=$here/accelerate/4_gpus.yaml fresh=()
  size=(--batch-size 8 --epochs 100 --eval-steps 5000 --max-source 512 --max-target "$longest")
  measure=(--max-source-tokens 512 --batch-size 32)
fi
for part in train dev test; do
  python "$here/pairs.py" "$folder/$task/$part.src" "$folder/$task/$part.tgt" \
    "$folder/$task/$part.jsonl"
done
python "$here/adapt.py" "$start" "$folder/$task-start" canvas_ratio=0.0 canvas_extra="$room"

accelerate launch --config_file "$launch" -m offramp.cli finetune --model "$folder/$task-start" \
  --pairs "$folder/$task/train.jsonl" --held-out "$folder/$task/dev.jsonl" \
  --learning-rate 2e-5 --schedule constant --warmup 0 --weight-decay 0 --gates \
  --metrics "$scores" --metric "$metric" --output "$folder/$task-model" "${fresh[@]}" "${size[@]}"

# All exits; then the same with places leaving by their gates.
offramp evaluate --model "$folder/$task-model" --pairs "$folder/$task/test.jsonl" \
  --output "$folder/$task-texts.jsonl" "${measure[@]}"
python "$here/field_scores.py" "$folder/$task-texts.jsonl"
offramp evaluate --model "$folder/$task-model" --pairs "$folder/$task/test.jsonl" --early-exit gate \
  --metrics "$scores" "${measure[@]}"
