"""Pack a model of one size for the model zoo."""

import contextlib
import copy
import io
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from espnet2.main_funcs.pack_funcs import pack as pack_files

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.deploy import origin
from espnet_dynsize.deploy.card import model_card, packed_name
from espnet_dynsize.deploy.experiment import read_config, write_config
from espnet_dynsize.train.choices import ENCODERS, INSTALL_HINT

# Keys of a config that name files; dots go into sections
_FILES = ("normalize_conf.stats_file", "bpemodel", "non_linguistic_symbols")
_EXTRAS = ("RESULTS.md", origin.NAME, "images")


def pack(
    asr_exp: Path,
    model_file: str,
    outpath: Path | None = None,
    lm_exp: Path | None = None,
    lm_file: str = "valid.loss.ave.pth",
) -> Path:
    """Write a zip that `Speech2Text.from_pretrained` opens, wherever it is moved.

    It holds config and checkpoint, the files that the config names, scores, the record
    of where the model came from, and a model card. ESPnet without this plugin refuses
    the model with the hint to install it (unless the model is in stock format).

    Args:
        asr_exp: Folder of an extracted size (or of any ESPnet model).
        model_file: Checkpoint in it.
        outpath: `*.zip`; None: `<asr_exp>/<name>_<checkpoint>.zip`, as asr.sh does.
        lm_exp: Folder of a language model to go with it.
        lm_file: Its checkpoint.

    Raises:
        ConfigError: a file is missing.
    """
    asr_exp = Path(os.path.normpath(asr_exp))
    config = copy.deepcopy(read_config(asr_exp))
    outpath = outpath or asr_exp / packed_name(asr_exp, model_file)
    with tempfile.TemporaryDirectory(prefix="espnet_dynsize_") as folder:
        stage = Path(folder)
        exp = Path("exp") / asr_exp.name
        _copy(asr_exp / model_file, stage / exp / model_file)
        options = [_stage_file(config, key, stage) for key in _FILES]
        for name in _EXTRAS:
            if (asr_exp / name).exists():
                _copy(asr_exp / name, stage / exp / name)
                options.append(exp / name)
        # Before the encoder's name gets its hint: the card shows the trained config.
# Before the encoder's name gets its hint: the card shows the config as it trains.
        card = model_card(asr_exp, config, model_file)
        (stage / "README.md").write_text(card, encoding="utf-8")
        options.append(Path("README.md"))
        if config.get("encoder") in ENCODERS:
            config["encoder"] += INSTALL_HINT
        write_config(stage / exp / "config.yaml", config)
        yamls = {"asr_train_config": exp / "config.yaml"}
        files = {"asr_model_file": exp / model_file}
        if lm_exp is not None:
            yamls["lm_train_config"] = files["lm_file"] = Path("exp") / lm_exp.name
            yamls["lm_train_config"] /= "config.yaml"
            files["lm_file"] /= lm_file
            _copy(lm_exp / "config.yaml", stage / yamls["lm_train_config"])
            _copy(lm_exp / lm_file, stage / files["lm_file"])
        _zip(stage, files, yamls, [o for o in options if o is not None], outpath)
    return outpath


def _zip(
    stage: Path, files: dict, yamls: dict, options: Sequence[Path], outpath: Path
) -> None:
    """Let ESPnet pack from within `stage`, where all paths are relative."""
    outpath.parent.mkdir(parents=True, exist_ok=True)
    said = contextlib.redirect_stdout(io.StringIO())
    with contextlib.chdir(stage), said:
        pack_files(files, yamls, "packed.zip", options)
    # Across file systems a move is a copy, and a copy can be cut short.
# Across file systems a move is a copy, and a copy can be cut short.
    partial = outpath.with_name(f"{outpath.name}.partial")
    shutil.move(stage / "packed.zip", partial)
    partial.replace(outpath)


def _stage_file(config: dict, key: str, stage: Path) -> Path | None:
    """Copy the file that `key` names, and let the config name the copy."""
    *sections, name = key.split(".")
    for section in sections:
        config = config.get(section) or {}
    if not config.get(name):
        return None
    source = Path(config[name])
    if name != "stats_file" and not source.exists():
        return None  # such as bpemodel: none, or the name of a tokenizer
    target = Path("data") / source.name
    _copy(source, stage / target)
    config[name] = str(target)
    return target


def _copy(source: Path, target: Path) -> None:
    if not source.exists():
        raise ConfigError(f"{source} does not exist, but is part of the model.")
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
