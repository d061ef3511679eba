"""Put a packed model on the Hugging Face hub."""

import tempfile
import zipfile
from pathlib import Path

from espnet_dynsize.core.errors import ConfigError, check, one_line


def check_repo(hf_repo: str) -> None:
    """Refuse what cannot be a repository's name, before work begins.

    Args:
        hf_repo: `user/name`.

    Raises:
        ConfigError: it cannot, or the hub's package is not installed.
    """
    try:
        from huggingface_hub.utils import HFValidationError, validate_repo_id
    except ImportError as error:
        raise ConfigError(
            f"hf_repo={hf_repo} needs the package huggingface_hub: pip install "
            "huggingface_hub."
        ) from error
    try:
        validate_repo_id(hf_repo)
        good = hf_repo.count("/") == 1
    except HFValidationError:
        good = False
    check(good, "hf_repo", hf_repo, "USER/NAME of letters, digits, '-', '_' and '.'")


def upload(packed: Path, hf_repo: str) -> None:
    """Upload the content of a packed model, as ESPnet's stage 15 does.

    Uses the token of `hf auth login`; the repository is created where it is missing.

    Args:
        packed: A zip written by `pack`.
        hf_repo: `user/name`.

    Raises:
        ConfigError: there is no such zip, or the hub does not take it.
    """
    check_repo(hf_repo)
    from huggingface_hub import HfApi

    if not packed.is_file():
        raise ConfigError(f"{packed} does not exist: pack it first (stage 14).")
    api = HfApi()
    with tempfile.TemporaryDirectory(prefix="espnet_dynsize_") as folder:
        with zipfile.ZipFile(packed) as archive:
            archive.extractall(folder)
        try:
            api.create_repo(hf_repo, exist_ok=True)
            api.upload_folder(
                repo_id=hf_repo, folder_path=folder, commit_message="Update model"
            )
        except Exception as error:  # of the network, the hub or the token
            raise ConfigError(
                f"hf_repo={hf_repo}: the upload failed: {one_line(error)}."
            ) from error
