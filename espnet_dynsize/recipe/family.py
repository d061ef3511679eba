"""A recipe's `run.sh` for a family: `asr.sh`, and what it lacks for many sizes."""

import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

import yaml

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.keys import family_sizes, is_family
from espnet_dynsize.core.yaml_base import read_yaml
from espnet_dynsize.deploy import origin
from espnet_dynsize.deploy.card import FAMILY_REPORT, packed_name
from espnet_dynsize.deploy.experiment import read_config
from espnet_dynsize.deploy.extract import extract_changed
from espnet_dynsize.deploy.pack import pack
from espnet_dynsize.deploy.upload import upload
from espnet_dynsize.recipe.folders import name_folders
from espnet_dynsize.recipe.options import Options, parse, training_config
from espnet_dynsize.recipe.tree import link_tree
from espnet_dynsize.report.results import results
from espnet_dynsize.report.write import write_report

TRAIN, DECODE, SCORE, PACK, UPLOAD = 11, 12, 13, 14, 15
DECODED = "decoded.yaml"
# Options of asr.sh on which hypotheses or scores depend
_DECODING = (
    *("use_lm", "lm_exp", "lm_tag", "inference_lm", "use_ngram", "ngram_exp"),
    *("test_sets", "eval_valid_set", "batch_size", "inference_config"),
    *("inference_args", "inference_tag", "inference_asr_model", "use_streaming"),
    *("nlsyms_txt", "cleaner", "hyp_cleaner", "score_opts", "local_score_opts"),
)


class StageError(ConfigError):
    """`asr.sh` failed; it has said why."""


def run_recipe(argv: Sequence[str]) -> None:
    """Run a recipe in the working directory.

    A config without a family goes to `asr.sh` whole. For a family, stages up to 11
    train the supernet; then every size is cut, and stages 12 to 15 run for each.

    Args:
        argv: Options of `asr.sh`, and `--sizes "16 48"` (default: all).

    Raises:
        ConfigError: an option cannot be used.
        StageError: `asr.sh` failed.
    """
    options = parse(argv)
    sizes = options.pop("sizes", "")
    first, last = options.number("stage"), options.number("stop_stage")
    config = training_config(options)
    link_tree(Path())
    options.setdefault("python", "espnet-dynsize run")
    if is_family(config):
        _check(options, sizes, config)
    name_folders(options)
    if not is_family(config):
        _asr_sh(options)
        return
    if first <= TRAIN:
        _asr_sh(options, stop_stage=min(last, TRAIN))
    if last >= DECODE:
        _run_sizes(options, sizes, max(first, DECODE), last)


def _check(options: Options, sizes: str, config: dict) -> None:
    """Find out before the training what would stop a later stage."""
    if "sizes=" not in options.get("asr_args"):
        choose_sizes(sizes, family_sizes(config))
    if not _test_sets(options):
        raise ConfigError("--test_sets must name the data directories to decode.")
    if _wants(options, "upload_hf") and not options.get("hf_repo"):
        raise ConfigError("--skip_upload_hf false needs --hf_repo USER/NAME.")


def _wants(options: Options, what: str) -> bool:
    return options.get(f"skip_{what}") != "true"


def choose_sizes(names: str, family: Sequence[int]) -> list[int]:
    """The sizes in `names`, all where it is empty.

    Raises:
        ConfigError: one is not in the family.
    """
    chosen = names.replace(",", " ").split() or [str(size) for size in family]
    for size in chosen:
        if size not in [str(s) for s in family]:
            raise ConfigError(f"--sizes {names}: {size} is not one of {list(family)}.")
    return [int(size) for size in chosen]


def _asr_sh(options: Options, **changes: object) -> None:
    done = subprocess.run(["./asr.sh", *options.arguments(**changes)])
    if done.returncode != 0:
        raise StageError(f"asr.sh failed with exit code {done.returncode}, see above.")


def _run_sizes(options: Options, names: str, first: int, last: int) -> None:
    asr_exp = Path(options.get("asr_exp"))
    checkpoint = options.get("inference_asr_model")
    if not (asr_exp / checkpoint).is_file():
        raise ConfigError(
            f"{asr_exp} has no {checkpoint}: train first (stages 1 to {TRAIN}), or "
            "name another checkpoint with --inference_asr_model."
        )
    sizes = choose_sizes(names, family_sizes(read_config(asr_exp)))
    folders = extract_changed(asr_exp, checkpoint, sizes)
    if first <= SCORE and _wants(options, "eval"):
        for folder in folders.values():
            _decode(options, folder, first, min(last, SCORE))
        if last >= SCORE:
            _report(options, asr_exp, folders)
    if first <= PACK <= last and _wants(options, "packing"):
        _pack(options, folders)
    if last >= UPLOAD and _wants(options, "upload_hf"):
        _upload(options, folders)


def _decode(options: Options, folder: Path, first: int, last: int) -> None:
    key, fingerprint = _decoding_name(options), _fingerprint(options, folder)
    both = (first, last) == (DECODE, SCORE)
    path = folder / DECODED
    done = read_yaml(path) if path.is_file() else {}
    if both and done.get(key) == fingerprint and _has_scores(options, folder):
        print(f"{folder}: decoded and scored before, nothing has changed", flush=True)
        return
    if done.pop(key, None):
        path.write_text(yaml.safe_dump(done))
    _asr_sh(options, asr_exp=folder, stage=first, stop_stage=last)
    if both:
        path.write_text(yaml.safe_dump({**done, key: fingerprint}))


def _decoding_name(options: Options) -> str:
    """Tells apart what asr.sh decodes into different folders."""
    names = [n for n in _DECODING if "inference" in n or "lm" in n or "ngram" in n]
    return " ".join(f"{n}={options.get(n)}" for n in names if options.get(n))


def _test_sets(options: Options) -> list[str]:
    """What asr.sh decodes; the validation set before long utterances were removed."""
    names, valid = options.get("test_sets").split(), options.get("valid_set")
    both = valid in names or options.get("eval_valid_set") == "true"
    return ([f"org/{valid}"] if both else []) + [n for n in names if n != valid]


def _has_scores(options: Options, folder: Path) -> bool:
    return all(
        any(folder.glob(f"*/{name}/score_wer/result.txt"))
        for name in _test_sets(options)
    )


def data_folder(options: Options) -> Path:
    """Where asr.sh keeps the formatted data directories."""
    return Path(options.get("dumpdir")) / options.get("feats_type")


def _fingerprint(options: Options, folder: Path) -> str:
    """Changes with everything that hypotheses and scores depend on."""
    digest = hashlib.sha256(repr(origin.read(folder)).encode())
    digest.update(repr([options.get(name) for name in _DECODING]).encode())
    files = [Path(options.get("inference_config"))]
    for name in _test_sets(options):
        files += [data_folder(options) / name / file for file in ("text", "wav.scp")]
    for path in files:
        digest.update(path.read_bytes() if path.is_file() else b"none")
    if options.uses_lm():
        for path in sorted(Path(options.get("lm_exp")).glob("*.pth")):
            digest.update(f"{path} {path.stat().st_mtime_ns}".encode())
    return digest.hexdigest()


def _report(options: Options, asr_exp: Path, folders: dict[int, Path]) -> None:
    text = results(str(asr_exp), folders, _test_sets(options), data_folder(options))
    pictures = write_report(
        list(folders.values()),
        options.get("inference_asr_model"),
        asr_exp / FAMILY_REPORT.parent,
    )
    names = [p.name for p in sorted(pictures.glob("*.png"))]
    text += "\n" + "".join(f"![{n}]({pictures.name}/{n})\n" for n in names)
    (asr_exp / "RESULTS.md").write_text(text, encoding="utf-8")
    print(f"{text}\nwritten: {asr_exp / 'RESULTS.md'}", flush=True)


def _pack(options: Options, folders: dict[int, Path]) -> None:
    checkpoint = options.get("inference_asr_model")
    lm_exp = Path(options.get("lm_exp")) if options.uses_lm() else None
    lm_file = options.get("inference_lm")
    for folder in folders.values():
        print(pack(folder, checkpoint, None, lm_exp, lm_file), flush=True)


def _upload(options: Options, folders: dict[int, Path]) -> None:
    checkpoint = options.get("inference_asr_model")
    for size, folder in folders.items():
        packed = folder / packed_name(folder, checkpoint)
        upload(packed, f"{options.get('hf_repo')}_size{size}")
