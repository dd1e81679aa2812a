"""Draw the divergence of exits against what they were trained on, from a training's log.

    python recipes/default_exits/curve.py out/trainer_state.json curve.svg --positions 447371

Each point is the mean over 20 steps of text that was not yet trained on in the first pass.
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("state", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--positions", type=int, required=True, help="in one pass")
    plan = parser.parse_args()
    state = json.loads(plan.state.read_text())
    lines = [line for line in state["log_history"] if "exit_2" in line]
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for exit in SHOWN:
        axes.plot(
            [line["epoch"] * plan.positions / 1000 for line in lines],
            [line[f"exit_{exit}"] for line in lines],
            label=f"exit {exit}",
        )
    axes.set_yscale("log")
    axes.set_xlabel("thousand positions trained on")
    axes.set_ylabel("KL(last layer || exit), nats")
    axes.legend()
    figure.tight_layout()
    figure.savefig(plan.picture, metadata={"Date": None})


if __name__ == "__main__":
    main()
