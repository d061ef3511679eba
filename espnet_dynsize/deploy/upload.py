"""Put a packed model on the Hugging Face hub."""

import tempfile
import zipfile
from pathlib import Path

from espnet_dynsize.core.errors import ConfigError


def upload(packed: Path, hf_repo: str) -> None:
    """Upload the content of a packed model, as ESPnet's stage 15 does.

    Uses the token of `hf auth login`; the repository is created where it is missing.

    Args:
        packed: A zip written by `pack`.
        hf_repo: `user/name`.

    Raises:
        ConfigError: there is no such zip.
    """
    from huggingface_hub import HfApi

    if not packed.is_file():
        raise ConfigError(f"{packed} does not exist: pack it first (stage 14).")
    api = HfApi()
    with tempfile.TemporaryDirectory(prefix="espnet_dynsize_") as folder:
        with zipfile.ZipFile(packed) as archive:
            archive.extractall(folder)
        api.create_repo(hf_repo, exist_ok=True)
        api.upload_folder(
            repo_id=hf_repo, folder_path=folder, commit_message="Update model"
        )
