"""``offramp models`` and ``offramp version`` say what is there."""

import json
import platform

import pytest
import torch
import transformers

from offramp.models import default
from offramp.version import __version__


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache with a complete model and one that was cut off."""
    monkeypatch.setenv("OFFRAMP_CACHE", str(tmp_path / "my cache"))
    whole = tmp_path / "my cache" / default.FOLDER
    part = tmp_path / "my cache" / f"{default.FOLDER}.partial-x"
    whole.mkdir(parents=True)
    part.mkdir()
    (whole / "weights").write_bytes(b"x" * 2_000_000)
    manifest = json.dumps({"files": {"weights": {"size": 2_000_000}}})
    (whole / "manifest.json").write_text(manifest)
    return whole.parent


def test_models_are_listed_with_size_state_and_place(offramp, cache):
    ran = offramp("models")

    first, second, last = ran.out.splitlines()
    assert first == f"{default.FOLDER}  2.0 MB  complete  {cache / default.FOLDER}"
    assert second.split("  ")[2] == "not complete"
    assert last == f"2 models in {cache}; set OFFRAMP_CACHE to a folder to keep models there"
    assert (ran.code, ran.err) == (0, "")


def test_models_are_one_json_object(offramp, cache):
    ran = offramp("models", "--json")

    (found,) = ran.results
    assert found["cache"] == str(cache)
    assert [model["complete"] for model in found["models"]] == [True, False]
    assert found["models"][0]["path"] == str(cache / default.FOLDER)
    assert found["models"][0]["size_bytes"] > 2_000_000
    assert found["models"][0]["name"] == default.FOLDER


def test_an_empty_cache_is_no_error(offramp, tmp_path, monkeypatch):
    monkeypatch.setenv("OFFRAMP_CACHE", str(tmp_path / "nothing"))

    assert offramp("models", "--json").results == [
        {"cache": str(tmp_path / "nothing"), "models": []}
    ]
    assert offramp("models").out.startswith(f"no models yet in {tmp_path / 'nothing'}; ")


@pytest.mark.parametrize("arguments", [["version"], ["--version"]])
def test_the_version_is_the_packages(offramp, arguments):
    ran = offramp(*arguments)

    assert (ran.code, ran.out, ran.err) == (0, f"offramp {__version__}\n", "")


def test_the_version_as_json_names_what_matters_for_a_report(offramp):
    (found,) = offramp("version", "--json").results

    assert found == {
        "offramp": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
