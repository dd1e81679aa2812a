"""The pages say what the tree holds, and no file names a path of one machine."""

import pkgutil
import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
DECISIONS = ROOT / "docs" / "decisions"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
MACHINE_PATH = re.compile(rb"(?<![\w.-])/(?:work|root)/|(?<![\w.-])/(?:home|Users)/\w+/")


def tracked_files() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout
    paths = [ROOT / name for name in listing.split("\0") if name]
    return [path for path in paths if path.is_file()]


def contract_layers() -> list[str]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    rows = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    return [layer.strip() for row in rows for layer in row.split("|")]


def exists(name: str) -> bool:
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def test_no_tracked_file_names_a_path_of_one_machine():
    files = tracked_files()

    found = [
        f"{path.relative_to(ROOT)}: {match[0].decode()}"
        for path in files
        for match in MACHINE_PATH.finditer(path.read_bytes())
    ]

    assert files
    assert not found


def test_every_decision_is_in_the_index():
    index = (DECISIONS / "README.md").read_text("utf-8")

    missing = [p.name for p in DECISIONS.glob("[0-9]*.md") if f"({p.name})" not in index]

    assert not missing, f"add a row to docs/decisions/README.md for {missing}"


def test_every_decision_is_named_by_number():
    names = sorted(path.name for path in DECISIONS.iterdir() if path.name != "README.md")

    odd = [name for name in names if not re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", name)]
    numbers = [name[:4] for name in names]

    assert not odd
    assert len(numbers) == len(set(numbers)), f"two decisions share a number: {names}"


def test_everything_that_the_architecture_page_names_exists():
    text = ARCHITECTURE.read_text("utf-8")
    modules = set(re.findall(r"`(offramp(?:\.\w+)+)(?:\(\))?`", text))
    files = set(re.findall(r"`([\w./-]+(?:\.py|\.md|\.toml|\.txt|/))`", text))

    missing = [name for name in modules if not exists(name)]
    missing += [
        name
        for name in files
        if not any((base / name).exists() for base in (ROOT, ROOT / "src/offramp", ROOT / "docs"))
    ]

    assert modules, "the page names no module: write them as `offramp.blocks.anatomy`"
    assert not missing, f"docs/architecture.md names what does not exist: {sorted(missing)}"


def test_the_architecture_page_names_every_layer_of_the_import_contract():
    text = ARCHITECTURE.read_text("utf-8")

    missing = [
        layer
        for layer in contract_layers()
        if not re.search(rf"\b{re.escape(layer.removeprefix('offramp.'))}\b", text)
    ]

    assert contract_layers()
    assert not missing, f"docs/architecture.md does not name the layers {missing}"
