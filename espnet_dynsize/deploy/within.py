"""What may go into a zip: files of the model's folder and of its recipe, no others.

Configs and folders come from strangers, too; a packed model is often published.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from espnet_dynsize.core.errors import ConfigError

# Folders of a recipe that often are links to another disk
_LINKED = ("data", "dump", "exp")


def recipe_roots(asr_exp: Path) -> list[Path]:
    """Folders that belong to a model: its own, its statistics', and its recipe.

    A recipe is where ESPnet's `exp/` lies, or the working directory with an asr.sh, if
    the model is in it.
    """
    asr_exp = asr_exp.absolute()
    roots = [asr_exp, *asr_exp.parent.glob("asr_stats*")]
    recipes = [asr_exp.parents[1]] if asr_exp.parent.name == "exp" else []
    if Path("asr.sh").exists() and Path.cwd() in asr_exp.parents:
        recipes.append(Path.cwd())
    for recipe in recipes:
        roots += [recipe, *(recipe / name for name in _LINKED)]
    return [root.resolve() for root in roots]


def copy_within(roots: Sequence[Path], source: Path, target: Path) -> None:
    """Copy a file, or a folder with all that is in it.

    Raises:
        ConfigError: it does not exist, or leads out of `roots`.
    """
    if not source.exists():
        raise ConfigError(f"{source} does not exist, but is part of the model.")
    for path in (source, *(source.rglob("*") if source.is_dir() else ())):
        real = path.resolve()
        if not any(real == root or root in real.parents for root in roots):
            raise ConfigError(
                f"{path} is {real}, outside the model's folder and its recipe: it is "
                "not packed; copy it into the folder if it belongs to the model."
            )
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
