"""Pack a model of one size for the model zoo."""

import contextlib
import io
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml
from espnet2.main_funcs.pack_funcs import pack as pack_files

from espnet_dynsize.core.checkpoint import read_states
from espnet_dynsize.core.files import check_replaceable, plain_path, replacing
from espnet_dynsize.core.keys import is_plugin
from espnet_dynsize.core.located import (
    BPEMODEL,
    FILES,
    STATISTICS,
    file_options,
    locate,
)
from espnet_dynsize.deploy import decoding, language_model, origin
from espnet_dynsize.deploy.card import model_card, packed_name
from espnet_dynsize.deploy.experiment import (
    CONFIG,
    config_text,
    find_checkpoint,
    load_model,
    read_config,
)
from espnet_dynsize.deploy.named import check_named
from espnet_dynsize.deploy.onnx.packed import Exports, find_exports
from espnet_dynsize.deploy.within import copy_within, recipe_roots
from espnet_dynsize.train.choices import ENCODERS, FRONTENDS, INSTALL_HINT

_EXTRAS = ("RESULTS.md", origin.NAME, "images")


def pack(
    asr_exp: Path,
    model_file: str,
    outpath: Path | None = None,
    lm_exp: Path | None = None,
    lm_file: str = "valid.loss.ave.pth",
    search: dict | None = None,
    onnx: bool = False,
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
        search: Options of the search with which the model was scored: `load` takes
            them where it is given no others.
        onnx: The exports in `<asr_exp>/onnx` go with it.

    Raises:
        ConfigError: a file is missing or lies outside the model's folder and its
            recipe, a checkpoint does not fit its config, the language model has other
            tokens than the ASR model, the search is none of the model's, an export is
            of another checkpoint, or the zip is not ours.
    """
    asr_exp = plain_path(asr_exp)
    model_file = find_checkpoint(asr_exp, model_file)
    outpath = outpath or asr_exp / packed_name(asr_exp, model_file)
    check_replaceable([outpath])
    config = locate(read_config(asr_exp), asr_exp)
    check_named(config, *FILES)
    if is_plugin(config):
        load_model(asr_exp, model_file)  # or why it cannot be opened
    else:
        read_states(asr_exp / model_file)
    decoding.check_kept("search", search)
    asked = {**decoding.default_search(config), **(search or {})}
    decoding.check_fits(asked, config)
    exports = find_exports(asr_exp, model_file) if onnx else Exports([], [])
    lm = _language_model(lm_exp, lm_file)
    language_model.check_language_model(lm, config)
    with tempfile.TemporaryDirectory(prefix="espnet_dynsize_") as folder:
        stage = Path(folder)
        exp = Path("exp") / asr_exp.name
        options = _stage_model(asr_exp, model_file, config, search, exports, stage, exp)
        yamls = {"asr_train_config": exp / CONFIG}
        files = {"asr_model_file": exp / model_file}
        for key, path in lm.items():
            names = yamls if key == language_model.CONFIG else files
            names[key] = _stage_lm(path, lm_exp, stage)
        _zip(stage, files, yamls, options, outpath)
    return outpath


def _stage_model(
    asr_exp: Path,
    model_file: str,
    config: dict,
    search: dict | None,
    exports: Exports,
    stage: Path,
    exp: Path,
) -> list[Path]:
    """Put all that belongs to the model into `stage`.

    Args:
        asr_exp: See `pack`.
        model_file: See `pack`.
        config: The model's; it is changed to name the files in the zip.
        search: See `pack`.
        exports: See `find_exports`.
        stage: What becomes the zip.
        exp: The model's folder in it.

    Returns:
        What goes into the zip besides config and checkpoint.
    """
    roots = recipe_roots(asr_exp)
    copy_within(roots, asr_exp / model_file, stage / exp / model_file)
    staged = [_stage_file(*named, roots, stage) for named in file_options(config)]
    options = [path for path in staged if path is not None]
    for name in (*_EXTRAS, *exports.files):
        if (asr_exp / name).exists():
            copy_within(roots, asr_exp / name, stage / exp / name)
            options.append(exp / name)
    # Before the encoder's name gets its hint: the card shows the trained config.
    texts = {Path("README.md"): model_card(asr_exp, config, model_file, exports.models)}
    if search:
        texts[exp / decoding.NAME] = yaml.safe_dump(search, sort_keys=False)
    options += texts
    for key, known in (("encoder", ENCODERS), ("frontend", FRONTENDS)):
        if config.get(key) in known:
            config[key] += INSTALL_HINT
    texts[exp / CONFIG] = config_text(config)
    for path, text in texts.items():
        (stage / path).write_text(text, encoding="utf-8")
    return options


def _language_model(lm_exp: Path | None, lm_file: str) -> dict[str, Path]:
    """Its config and its checkpoint, see `check_language_model`."""
    if lm_exp is None:
        return {}
    names = {language_model.CONFIG: CONFIG, language_model.CHECKPOINT: lm_file}
    return {key: lm_exp / name for key, name in names.items()}


def _stage_lm(path: Path, lm_exp: Path, stage: Path) -> Path:
    """Put a file of a language model into `stage`; where it is there."""
    # Not below exp/: its folder may have the ASR model's name.
    target = Path("lm") / plain_path(lm_exp).name / path.name
    copy_within(recipe_roots(lm_exp), path, stage / target)
    return target


def _zip(
    stage: Path, files: dict, yamls: dict, options: Sequence[Path], outpath: Path
) -> None:
    """Let ESPnet pack from within `stage`, where all paths are relative."""
    said = contextlib.redirect_stdout(io.StringIO())
    with replacing(outpath) as partial:
        with contextlib.chdir(stage), said:
            pack_files(files, yamls, "packed.zip", options)
        # Across file systems a move is a copy, and a copy can be cut short.
        shutil.move(stage / "packed.zip", partial)


def _stage_file(
    key: str, section: dict, name: str, roots: Sequence[Path], stage: Path
) -> Path | None:
    """Copy the file that `key` names, and let the config name the copy."""
    source = Path(section[name])
    if not source.exists():
        return None  # the name of a tokenizer, or symbols that only training needs
    if key in (STATISTICS, BPEMODEL):
        # No text could be one: it may also lie anywhere where the models are.
        roots = [*roots, roots[0].parent]
    target = Path("data") / source.name
    if (stage / target).exists():  # another option's, of the same name
        target = Path("data") / name / source.name
    copy_within(roots, source, stage / target)
    section[name] = str(target)
    return target
