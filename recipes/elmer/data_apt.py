"""Debian's packages and package lists, fetched into a folder; the system's own are not touched.

In:  a folder, names of packages. Out: lists as text, packages unpacked.
Law: everything comes from one suite, main only, whatever this machine is set to install from.
Not here: what the texts are used for (data_synopsis, data_prose).
"""

import os
from collections.abc import Sequence
from pathlib import Path

from data_files import DataError, run, say

SUITE = "bookworm"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def options(cache: Path) -> list[str]:
    """Make apt keep its state in our folder, and read English descriptions."""
    root = (cache / "apt").resolve()
    settings = {
        "Dir::State": root / "state",
        "Dir::State::status": root / "status",
        "Dir::Cache": root / "cache",
        "Dir::Etc::parts": root / "parts",
        "Dir::Etc::sourcelist": root / "sources.list",
        "Dir::Etc::sourceparts": root / "parts",
        "Acquire::Languages": "en",
        "Acquire::GzipIndexes": "false",
        "APT::Architecture": "amd64",
        "APT::Architectures::": "amd64",
        "APT::Sandbox::User": "root",
    }
    return [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]


def mirror() -> str:
    """Give the address of the archive, from DEBIAN_MIRROR or from this machine's own sources.

    Raises:
        DataError: there is no apt, or it is set to install from another suite.
    """
    if given := os.environ.get("DEBIAN_MIRROR"):
        return given
    form = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
    targets = run(["apt-get", "indextargets", "--format", form], needs="finding a Debian archive")
    for line in targets.splitlines():
        address, _, part = line.partition(" ")
        if part == f"{SUITE} main":
            return address
    raise DataError(
        f"this machine's apt has no source of Debian {SUITE} main; set DEBIAN_MIRROR to the "
        "address of an archive"
    )


def update(cache: Path) -> None:
    """Fetch the lists of packages, once.

    Raises:
        DataError: there is no apt, or the archive cannot be reached.
    """
    root = cache / "apt"
    if (root / "updated").exists():
        return
    for folder in ("state/lists/partial", "cache/archives/partial", "parts"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "status").touch()
    source = f"deb [arch=amd64 signed-by={KEYRING}] {mirror()} {SUITE} main\n"
    (root / "sources.list").write_text(source, encoding="utf-8")
    say(f"fetching the package lists of Debian {SUITE}")
    strict = ["-o", "APT::Update::Error-Mode=any"]
    run(["apt-get", *options(cache), *strict, "update"], needs="fetching Debian's package lists")
    (root / "updated").touch()


def index(cache: Path, ending: str) -> list[dict[str, str]]:
    """Read a list of packages as fields; continued lines keep their line ends.

    Args:
        cache: The folder that the lists were fetched into.
        ending: How the list's name ends, such as ``_Packages`` or ``_Translation-en``.

    Raises:
        DataError: no list, or several, have a name like that.
    """
    update(cache)
    found = sorted((cache / "apt" / "state" / "lists").glob(f"*{ending}"))
    if len(found) != 1:
        raise DataError(f"expected one package list *{ending}, found {[p.name for p in found]}")
    return [fields(block) for block in found[0].read_text(encoding="utf-8").split("\n\n") if block]


def fields(block: str) -> dict[str, str]:
    r"""Read one entry of a list.

    Example:
        >>> fields("Package: a\nDescription-en: does b\n It does.\n")
        {'Package': 'a', 'Description-en': 'does b\n It does.'}
    """
    read: dict[str, str] = {}
    name = ""
    for line in block.strip("\n").split("\n"):
        if line.startswith(" "):
            read[name] += "\n" + line
        else:
            name, _, value = line.partition(":")
            read[name] = value.strip()
    return read


def unpack(cache: Path, packages: Sequence[str]) -> dict[str, Path]:
    """Fetch and unpack packages, those that are not there yet; gives each one's folder.

    Raises:
        DataError: a package cannot be fetched.
    """
    update(cache)
    places = {package: cache / "debs" / package for package in packages}
    wanted = [package for package, place in places.items() if not place.exists()]
    fetched = (cache / "debs" / "fetched").resolve()
    fetched.mkdir(parents=True, exist_ok=True)
    for package in wanted:
        say(f"fetching {package}")
        run(
            ["apt-get", *options(cache), "--quiet", "download", package],
            needs=f"fetching {package}",
            folder=fetched,
        )
        (path,) = fetched.glob(f"{package}_*.deb")
        part = places[package].with_suffix(".part")
        run(["dpkg-deb", "-x", str(path), str(part)], needs=f"unpacking {package}")
        part.replace(places[package])
        path.unlink()
    return places
