"""Draw the divergence of exits against what they were trained on, from the logs of a training.

    python recipes/default_exits/curve.py low/checkpoint-*/trainer_state.json \
        high/checkpoint-*/trainer_state.json --positions 1381829 --picture curve.svg

Each point is the mean over 20 steps of text that was not yet trained on: every position came once.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

SHOWN = (4, 12, 20, 24, 28)


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logs", type=Path, nargs="+")
    parser.add_argument("--picture", type=Path, required=True)
    parser.add_argument("--positions", type=int, required=True, help="in one pass")
    plan = parser.parse_args()
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for exit in SHOWN:
        points = [
            (line["epoch"] * plan.positions / 1000, line[f"exit_{exit}"])
            for log in plan.logs
            for line in json.loads(log.read_text())["log_history"]
            if f"exit_{exit}" in line
        ]
        axes.plot(*zip(*points, strict=True), label=f"exit {exit}")
    axes.set_yscale("log")
    axes.set_xlabel("thousand positions trained on")
    axes.set_ylabel("KL(last layer || exit), nats")
    axes.legend()
    figure.tight_layout()
    figure.savefig(plan.picture, metadata={"Date": None})


if __name__ == "__main__":
    main()
