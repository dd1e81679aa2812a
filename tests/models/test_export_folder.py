import pytest

from offramp.errors import ConfigError
from offramp.models.export_folder import check_export_folder, move, staged


def export_into(place):
    with staged(place) as stage:
        for name in ("config.json", "model.safetensors"):
            (stage / name).write_text("{}")
        move(stage, place, {"exit": 2})


def test_an_export_that_was_cut_off_is_made_again_and_a_whole_one_is_not(tmp_path):
    place = tmp_path / "out"
    export_into(place)
    with pytest.raises(ConfigError, match="holds an earlier export"):
        check_export_folder(place, overwrite=False)

    (place / "config.json").unlink()  # it comes last

    assert check_export_folder(place, overwrite=False) == place
