"""Train one model of the comparison: autoregressive or ELMER, same data, same budget of steps.

In:  the data that recipes/elmer/data.py wrote. Out: a folder with the best checkpoint, and a line
     of JSON with its numbers on development items (test items are for offramp evaluate --pairs).

Example:
    python recipes/elmer/train.py --data DATA --task g2p --kind ctc --out RUNS/g2p-ctc-0
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, BartConfig, BartForConditionalGeneration

from offramp.evaluation.text_metrics import measures
from offramp.models.elmer import ElmerConfig, ElmerForConditionalGeneration
from offramp.training.finetuning import finetune
from offramp.training.finetuning_settings import FinetuneSettings
from offramp.training.pairs import Pair, pairs_of
from offramp.training.sources import open_source

TASKS: dict[str, dict[str, Any]] = {
    "g2p": {
        "metrics": ("errors",),
        "kept": ("row_error_rate", "token_error_rate"),
        "metric": "-row_error_rate",
        "max_source": 32,
        "max_target": 32,
        "steps": 10000,
        "batch": 128,
        "rate": 1e-3,
        "every": 1000,
        "eval_rows": 1000,
        "ratio": 1.0,
        "extra": 6,
    },
    "rewrite": {
        "metrics": ("bleu",),
        "kept": ("bleu",),
        "metric": "bleu",
        "max_source": 128,
        "max_target": 128,
        "steps": 6000,
        "batch": 64,
        "rate": 1e-3,
        "every": 1000,
        "eval_rows": 300,
        "ratio": 1.5,
        "extra": 8,
    },
    "synopsis": {
        "metrics": ("rouge",),
        "kept": ("rouge1", "rouge2", "rougeL"),
        "metric": "rougeL",
        "max_source": 200,
        "max_target": 48,
        "steps": 6000,
        "batch": 64,
        "rate": 1e-3,
        "every": 1000,
        "eval_rows": 500,
        "ratio": 0.5,
        "extra": 16,
    },
}
"""How each task is trained, but for what --kind and the other options say."""

SHAPES = {"6-6": (6, 6), "4-4": (4, 4), "3-3": (3, 3), "6-1": (6, 1), "4-3": (4, 3), "4-2": (4, 2)}
PLACES = ("data", "out", "fresh")
"""Options that say where, and not what."""

KINDS = ("ar", "plain", "ctc", "dag")


def config_of(asked: argparse.Namespace, tokenizer: Any) -> Any:
    """Give the configuration of a model that does not exist yet."""
    encoder, decoder = SHAPES[asked.shape]
    shape = {
        "vocab_size": len(tokenizer),
        "d_model": asked.width,
        "encoder_layers": encoder,
        "decoder_layers": decoder,
        "encoder_ffn_dim": asked.ffn,
        "decoder_ffn_dim": asked.ffn,
        "encoder_attention_heads": asked.width // 32,
        "decoder_attention_heads": asked.width // 32,
        "max_position_embeddings": 512 if asked.task != "g2p" else 96,
        "dropout": asked.dropout,
        "attention_dropout": asked.dropout,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.eos_token_id,
        "forced_eos_token_id": None,
        "init_std": asked.init_std,
    }
    if asked.kind == "ar":
        return BartConfig(**shape)
    task = TASKS[asked.task]
    return ElmerConfig(
        **shape,
        mask_token_id=tokenizer.mask_token_id,
        output_head=asked.kind,
        canvas_ratio=task["ratio"],
        canvas_extra=task["extra"],
        canvas_source=asked.canvas_source,
        glancing=asked.glancing,
        exit_loss=asked.exit_loss,
        soft_exit=asked.soft_exit,
        length_predictor=asked.kind == "plain" and asked.length_predictor,
    )


def model_for(asked: argparse.Namespace, tokenizer: Any) -> Any:
    """Make a model with random weights, or take one that was pre-trained."""
    torch.manual_seed(asked.seed)
    config = config_of(asked, tokenizer)
    kind = BartForConditionalGeneration if asked.kind == "ar" else ElmerForConditionalGeneration
    if asked.start is not None:
        return kind.from_pretrained(asked.start, config=config)
    return kind(config)


def pairs_in(path: Path) -> list[Pair]:
    """Read pairs of one file."""
    return pairs_of(open_source(str(path), split="train", streaming=False).rows("text"))


def options() -> argparse.ArgumentParser:
    """Say what can be asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shape", choices=SHAPES, default="3-3")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--ffn", type=int, default=512)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--init-std", type=float, default=0.05)
    parser.add_argument("--canvas-source", action="store_true")
    parser.add_argument("--glancing", type=float, default=0.0)
    parser.add_argument("--exit-loss", choices=("last", "all"), default="last")
    parser.add_argument("--soft-exit", action="store_true")
    parser.add_argument("--length-predictor", action="store_true")
    parser.add_argument("--label-smoothing", type=float, default=0.0)
    parser.add_argument("--start", help="a model that is trained on")
    parser.add_argument("--pairs", type=Path, help="other texts, such as distill-data writes")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--every", type=int)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true", help="write the untrained model and stop")
    return parser


def main() -> None:
    """Train."""
    asked = options().parse_args()
    torch.set_num_threads(asked.threads)
    task, folder = TASKS[asked.task], asked.data / asked.task
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    model = model_for(asked, tokenizer)
    if asked.fresh:  # for offramp pretrain --model
        model.save_pretrained(asked.out)
        tokenizer.save_pretrained(asked.out)
        return
    model.set_attn_implementation("eager")  # rows are short: fused attention is slower on a CPU
    settings = FinetuneSettings(
        learning_rate=asked.rate or task["rate"],
        max_steps=asked.steps or task["steps"],
        batch_size=asked.batch or task["batch"],
        eval_steps=asked.every or task["every"],
        eval_rows=task["eval_rows"],
        max_source=task["max_source"],
        max_target=task["max_target"],
        metric=task["metric"],
        precision=asked.precision,
        label_smoothing=asked.label_smoothing,
        log_steps=100,
        seed=asked.seed,
    )
    started = time.time()
    trainer = finetune(
        model,
        tokenizer,
        pairs=pairs_in(asked.pairs or folder / "train.jsonl"),
        held_out=pairs_in(folder / "dev.jsonl"),
        output=asked.out,
        settings=settings,
        metrics=measures(task["metrics"]),
        disable_tqdm=True,
    )
    trainer.model.save_pretrained(asked.out / "best")
    tokenizer.save_pretrained(asked.out / "best")
    kept = ("eval_loss", *(f"eval_{name}" for name in task["kept"]))
    history = [
        {name: each[name] for name in (*kept, "step")}
        for each in trainer.state.log_history
        if "eval_loss" in each
    ]
    result = {
        "asked": {name: str(vars(asked)[name]) for name in vars(asked) if name not in PLACES},
        "parameters": sum(each.numel() for each in model.parameters()),
        "best": trainer.state.best_metric,
        "steps": trainer.state.global_step,
        "seconds": round(time.time() - started, 1),
        "threads": asked.threads,
        "history": history,
    }
    (asked.out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: result[name] for name in ("parameters", "best", "steps", "seconds")}))


if __name__ == "__main__":
    main()
