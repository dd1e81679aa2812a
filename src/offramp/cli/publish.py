"""Upload the folder that a training left to the hub.

In:  a folder and the name of a repository. Out: a line on stderr.
Law: a hub that refuses or is not reached costs nothing: the folder is whole on the disk
     (tests/cli/test_train.py, test_pretrain.py, test_finetune.py).
Not here: models' own push_to_hub (offramp.models.storage).
"""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from offramp.cli.show import remark
from offramp.errors import ConfigError, first_line

OF_THE_RUN = ("runs/*", "checkpoint-*")
"""What the result does not need."""


def push(folder: Path, name: str | None, *, left_out: Sequence[str] = ()) -> None:
    """Upload the result, but for what only going on with the training needs.

    Args:
        folder: To upload.
        name: Repository, made if it is missing; None uploads nothing.
        left_out: More patterns of names that stay here.

    Raises:
        ConfigError: The hub refuses it, or cannot be reached.
    """
    if name is None:
        return
    try:
        hub = HfApi()
        hub.create_repo(name, exist_ok=True)
        hub.upload_folder(
            repo_id=name, folder_path=folder, ignore_patterns=[*OF_THE_RUN, *left_out]
        )
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise ConfigError(
            f"cannot push {folder} to {name}: {first_line(error)}; it is whole on this disk, log "
            "in by hf auth login and run the same command again"
        ) from None
    remark(f"pushed to {name}")
