"""What int8 costs a shipped model in quality: PyTorch's dynamic quantisation of linear layers.

    python recipes/elmer/int8.py --model elmer-g2p --pairs FOLDER/g2p/dev.jsonl

In:  a model and pairs. Out: JSON with the word and token errors in float32 and int8, their paired
     difference, and how many texts are the same. Its speed is in benchmarks/elmer.py (elmer-int8).
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
from elmer_ways import int8
from train import pairs_in

from offramp import load_elmer
from offramp.evaluation.seq2seq import Writer, WriteSettings
from offramp.evaluation.text_metrics import TextSettings, measure_texts


def main() -> None:
    """Write every text twice and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="elmer-g2p", help="one that ships")
    parser.add_argument("--pairs", type=Path, required=True)
    plan = parser.parse_args()
    pairs = pairs_in(plan.pairs)
    sources, references = [each.source for each in pairs], [each.targets for each in pairs]
    model, tokenizer = load_elmer(plan.model, dtype=torch.float32)
    settings = TextSettings(metrics=("errors",))
    texts, measured = {}, {}
    for name, kind in (("float32", model), ("int8", int8(model))):
        writer = Writer(kind, tokenizer, WriteSettings(batch_size=64))
        texts[name] = [each.text for each in writer.write_all(sources)]
        measured[name] = measure_texts(texts[name], references, settings)
    found = {name: [asdict(each) for each in of.scores()] for name, of in measured.items()}
    apart = measured["int8"].against(measured["float32"])
    same = sum(one == other for one, other in zip(*texts.values(), strict=True))
    told = {"texts": len(pairs), "same_text": same, **found}
    print(json.dumps({**told, "difference": [asdict(each) for each in apart]}, indent=1))


if __name__ == "__main__":
    main()
