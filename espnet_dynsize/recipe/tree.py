"""The parts of an ESPnet checkout that a recipe folder needs."""

import os
from pathlib import Path

from espnet_dynsize.core.errors import ConfigError

# The trees whose scripts run with the ESPnet that is installed
FITTING = "that of the installed version; 202511 fits 202611, too"
NAMES = ("asr.sh", "scripts", "pyscripts", "utils", "steps")
# How cluster jobs are started; a recipe may have its own
OPTIONAL = ("conf/slurm.conf", "conf/queue.conf", "conf/pbs.conf")


def espnet_root(recipe: Path) -> Path:
    """`ESPNET_ROOT`, or the tree that the recipe (`egs2/<corpus>/asr1`) lies in."""
    return Path(os.environ.get("ESPNET_ROOT") or recipe.resolve().parents[2])


def link_tree(recipe: Path) -> None:
    """Link what is missing in the recipe's folder to ESPnet's `asr1` template.

    Links to the template of another tree are renewed: parts of two trees do not fit.

    Raises:
        ConfigError: the template is not there.
    """
    template = espnet_root(recipe) / "egs2" / "TEMPLATE" / "asr1"
    for name in (*NAMES, *OPTIONAL):
        if (recipe / name).exists() and not _is_of_another(recipe / name, template):
            continue
        if not (template / name).exists():
            if name in OPTIONAL:
                continue
            raise ConfigError(
                f"{template / name} does not exist: set ESPNET_ROOT to an ESPnet "
                f"checkout ({FITTING}), or copy the recipe to its egs2/."
            )
        (recipe / name).unlink(missing_ok=True)  # a link to what is gone
        (recipe / name).parent.mkdir(exist_ok=True)  # `conf`, of the optional ones
        (recipe / name).symlink_to((template / name).resolve())


def _is_of_another(path: Path, template: Path) -> bool:
    """Whether a link leads into the template of another tree."""
    target = path.resolve()
    parts = template.parts[-3:]
    depth = len(Path(path.name).parts)
    return (
        path.is_symlink()
        and target.parts[-3 - depth : -depth] == parts
        and not target.is_relative_to(template.resolve())
    )
