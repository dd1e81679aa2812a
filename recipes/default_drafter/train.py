r"""Train the drafter of the embedded default on kept states.

    python recipes/default_drafter/train.py --kept kept --output drafter.safetensors

The drafter reads what the head read at a position and the token after it, and guesses what the head
reads there; then it reads its own guess. Loss: divergence from the base over the draft vocabulary,
at three steps of this, weighted 1, 0.8 and 0.6. Positions are drawn at random over all texts, each
once. Killed and started again, it goes on from its last checkpoint.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from offramp.blocks.drafter import Drafter
from offramp.models.default import ensure_default
from offramp.models.embedded import default_token_counts

WEIGHTS = (1.0, 0.8, 0.6)
BATCH = 640
WARM_UP = 50
SEED = 0


class Kept:
    """States and tokens of all texts, one after the other, and where a draft may begin."""

    def __init__(self, folder: Path) -> None:
        states, tokens, places, at = [], [], [], 0
        for path in sorted(folder.glob("*.safetensors")):
            kept = load_file(path)
            states.append(kept["states"])
            tokens.append(kept["tokens"].long())
            places += [
                torch.arange(max(prompt - 2, 0), length - len(WEIGHTS) - 1) + start + at
                for start, length, prompt in kept["rows"].tolist()
            ]
            at += len(kept["tokens"])
        self.states, self.tokens = torch.cat(states), torch.cat(tokens)
        found = torch.cat(places)
        order = torch.randperm(len(found), generator=torch.Generator().manual_seed(SEED))
        self.places = found[order]


def losses(
    drafter: Drafter, kept: Kept, base: tuple[Tensor, Tensor], places: Tensor
) -> tuple[list[Tensor], list[float]]:
    """Give divergence and agreement at each step of a draft."""
    embeddings, rows = base
    state = kept.states[places]
    divergence, agreement = [], []
    for step in range(1, len(WEIGHTS) + 1):
        state = drafter(state, embeddings[kept.tokens[places + step]])
        with torch.no_grad():
            target = (kept.states[places + step] @ rows.t()).float().log_softmax(-1)
        guess = (state.to(rows.dtype) @ rows.t()).float().log_softmax(-1)
        divergence.append((target.exp() * (target - guess)).sum(-1).mean())
        agreement.append((guess.argmax(-1) == target.argmax(-1)).float().mean().item())
    return divergence, agreement


def main() -> None:
    """Train, with a line of the log every 50 steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kept", required=True, type=Path)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--num-tokens", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--threads", type=int, default=1)
    plan = parser.parse_args()
    torch.set_num_threads(plan.threads)
    torch.manual_seed(SEED)
    model = AutoModelForCausalLM.from_pretrained(ensure_default(), dtype=torch.bfloat16)
    some = default_token_counts()[0][: plan.num_tokens]
    base = (model.get_input_embeddings().weight.detach(), model.lm_head.weight.detach()[some])
    drafter = Drafter(width=base[0].shape[1], hidden=plan.hidden, num_tokens=len(some))
    drafter.tokens.copy_(some)
    begin_(drafter, model.model.norm.weight)
    train(drafter, Kept(plan.kept), base, plan)
    tensors = {name: each.detach() for name, each in drafter.bfloat16().state_dict().items()}
    save_file(tensors, plan.output, metadata={"format": "pt"})


def train(
    drafter: Drafter, kept: Kept, base: tuple[Tensor, Tensor], plan: argparse.Namespace
) -> None:
    """Train from the last checkpoint on."""
    optimizer = torch.optim.AdamW(
        drafter.parameters(), lr=plan.learning_rate, betas=(0.9, 0.95), weight_decay=0.01
    )
    checkpoint = plan.output.with_suffix(".checkpoint")
    first = 0
    if checkpoint.exists():
        held = torch.load(checkpoint, weights_only=True)
        first = held["step"]
        drafter.load_state_dict(held["drafter"])
        optimizer.load_state_dict(held["optimizer"])
    print(len(kept.places), "positions", flush=True)
    for step in range(first, plan.steps):
        for group in optimizer.param_groups:
            falling = max(0.02, 1 - step / plan.steps)
            group["lr"] = plan.learning_rate * min(1, (step + 1) / WARM_UP) * falling
        at = step * BATCH % (len(kept.places) - BATCH)
        with torch.autocast("cpu", torch.bfloat16):
            divergence, agreement = losses(drafter, kept, base, kept.places[at : at + BATCH])
        loss = sum(weight * each for weight, each in zip(WEIGHTS, divergence, strict=True))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(drafter.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0:
            told = [round(each.item(), 3) for each in divergence]
            line = {"step": step + 1, "agreement": agreement, "divergence": told}
            print(json.dumps(line), flush=True)
            state = {"drafter": drafter.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({"step": step + 1, **state}, checkpoint)


def begin_(drafter: Drafter, norm: Tensor) -> None:
    """Start near what the head is used to reading."""
    with torch.no_grad():
        drafter.last_norm.weight.copy_(norm)
        drafter.join.weight.normal_(0, 0.02)
        drafter.down.weight.normal_(0, 0.005)


if __name__ == "__main__":
    main()
