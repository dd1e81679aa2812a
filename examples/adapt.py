"""Copy a model's folder with other fields in its configuration.

python examples/adapt.py pretrained/ for-summaries/ canvas_ratio=0.0 canvas_extra=72
"""

import json
import shutil
import sys
from pathlib import Path

KEPT = ("*.safetensors", "*.json", "*.jinja", "vocab*", "merges.txt")
"""What makes up a model; checkpoints and logs stay behind."""


def main() -> None:
    """Copy, then change."""
    if len(sys.argv) < 4 or not all("=" in each for each in sys.argv[3:]):
        sys.exit("usage: python examples/adapt.py FOLDER NEW FIELD=VALUE ...")
    source, target = map(Path, sys.argv[1:3])
    target.mkdir(parents=True, exist_ok=True)
    for pattern in KEPT:
        for path in source.glob(pattern):
            shutil.copy(path, target / path.name)
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    for each in sys.argv[3:]:
        field, _, value = each.partition("=")
        config[field] = json.loads(value)
    (target / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
