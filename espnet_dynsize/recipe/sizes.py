"""Stages 12 to 15 of a recipe for every size of a trained family."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import yaml

from espnet_dynsize.core import yaml_base
from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.files import check_replaceable, whole, write_text
from espnet_dynsize.core.members import family_members
from espnet_dynsize.deploy import origin
from espnet_dynsize.deploy.card import FAMILY_REPORT, packed_name
from espnet_dynsize.deploy.decoding import of_search
from espnet_dynsize.deploy.experiment import read_config
from espnet_dynsize.deploy.extract import extract_changed
from espnet_dynsize.deploy.pack import pack
from espnet_dynsize.deploy.upload import upload
from espnet_dynsize.recipe.asr_sh import (
    DECODE,
    PACK,
    SCORE,
    TRAIN,
    UPLOAD,
    run_asr_sh,
)
from espnet_dynsize.recipe.options import Options, choose_sizes
from espnet_dynsize.recipe.refused import decoding_config
from espnet_dynsize.report.results import results
from espnet_dynsize.report.write import check_output, write_report

DECODED = "decoded.yaml"
RESULTS = "RESULTS.md"
# Options of asr.sh on which hypotheses or scores depend
_DECODING = (
    *("use_lm", "lm_exp", "lm_tag", "inference_lm", "lang", "token_type", "nbpe"),
    *("use_ngram", "ngram_exp", "ngram_num", "inference_ngram"),
    *("test_sets", "eval_valid_set", "batch_size", "inference_config"),
    *("inference_args", "inference_tag", "inference_asr_model", "use_streaming"),
    *("nlsyms_txt", "cleaner", "hyp_cleaner", "score_opts", "local_score_opts"),
)


def run_sizes(options: Options, names: str, stages: Sequence[int]) -> None:
    """Cut the sizes, then decode, score, report, pack and upload each.

    Args:
        options: Those of `asr.sh`; `asr_exp` is the supernet's folder.
        names: The sizes, all where it is empty.
        stages: Those of 12 to 15 that are asked for.

    Raises:
        ConfigError: there is no such checkpoint or size.
        StageError: `asr.sh` failed.
    """
    asr_exp = Path(options.get("asr_exp"))
    checkpoint = options.get("inference_asr_model")
    if not (asr_exp / checkpoint).is_file():
        raise ConfigError(
            f"{asr_exp} has no {checkpoint}: train first (stages 1 to {TRAIN}), or "
            "name another checkpoint with --inference_asr_model."
        )
    if SCORE in stages:  # found out before hours of decoding
        check_output(asr_exp / FAMILY_REPORT.parent)
        check_replaceable([asr_exp / RESULTS])
    chosen = choose_sizes(names, family_members(read_config(asr_exp)))
    folders = extract_changed(asr_exp, checkpoint, chosen)
    scoring = [stage for stage in stages if stage in (DECODE, SCORE)]
    if scoring:
        for folder in folders.values():
            _decode(options, folder, scoring)
    if SCORE in stages:
        _report(options, asr_exp, folders)
    if PACK in stages:
        _pack(options, folders)
    if UPLOAD in stages:
        _upload(options, folders)


def _decode(options: Options, folder: Path, stages: Sequence[int]) -> None:
    key, fingerprint = _decoding_name(options), _fingerprint(options, folder)
    both = len(stages) == 2
    path = folder / DECODED
    done = yaml_base.read_config(path) if path.is_file() else {}
    if both and done.get(key) == fingerprint and _has_scores(options, folder):
        print(f"{folder}: decoded and scored before, nothing has changed", flush=True)
        return
    if done.pop(key, None):
        _remember(path, done)
    run_asr_sh(options, asr_exp=folder, stage=stages[0], stop_stage=stages[-1])
    if both:
        _remember(path, {**done, key: fingerprint})


def _remember(path: Path, done: dict) -> None:
    with whole(path) as partial:
        partial.write_text(yaml.safe_dump(done))


def _decoding_name(options: Options) -> str:
    """Tells apart what asr.sh decodes into different folders."""
    names = [n for n in _DECODING if "inference" in n or "lm" in n or "ngram" in n]
    return " ".join(f"{n}={options.get(n)}" for n in names if options.get(n))


def _has_scores(options: Options, folder: Path) -> bool:
    return all(
        any(folder.glob(f"*/{name}/score_wer/result.txt"))
        for name in options.test_sets()
    )


def _fingerprint(options: Options, folder: Path) -> str:
    """Changes with everything that hypotheses and scores depend on."""
    digest = hashlib.sha256(repr(origin.read(folder)).encode())
    digest.update(repr([options.get(name) for name in _DECODING]).encode())
    files = [Path(options.get("inference_config"))]
    for name in options.test_sets():
        data = options.data_folder() / name
        files += [data / file for file in ("text", "wav.scp", "feats.scp")]
    for path in files:
        digest.update(path.read_bytes() if path.is_file() else b"none")
    models = Path(options.get("lm_exp")).glob("*.pth") if options.uses_lm() else ()
    ngrams = Path(options.get("ngram_exp") or Path(options.get("expdir")) / "ngram")
    grams = ngrams.glob("*.bin") if options.true("use_ngram") else ()
    for path in (*sorted(models), *sorted(grams)):
        digest.update(f"{path} {path.stat().st_mtime_ns}".encode())
    return digest.hexdigest()


def _report(options: Options, asr_exp: Path, folders: dict[str, Path]) -> None:
    text = results(str(asr_exp), folders, options.test_sets(), options.data_folder())
    pictures = write_report(
        list(folders.values()),
        options.get("inference_asr_model"),
        asr_exp / FAMILY_REPORT.parent,
    )
    names = [p.name for p in sorted(pictures.glob("*.png"))]
    text += "\n" + "".join(f"![{n}]({pictures.name}/{n})\n" for n in names)
    write_text(asr_exp / RESULTS, text)
    print(f"{text}\nwritten: {asr_exp / RESULTS}", flush=True)


def _pack(options: Options, folders: dict[str, Path]) -> None:
    checkpoint = options.get("inference_asr_model")
    lm_exp = Path(options.get("lm_exp")) if options.uses_lm() else None
    lm_file = options.get("inference_lm")
    # Whoever opens the zip hears what was scored.
    search = of_search(decoding_config(options))
    for folder in folders.values():
        packed = pack(folder, checkpoint, None, lm_exp, lm_file, search)
        print(packed, flush=True)


def _upload(options: Options, folders: dict[str, Path]) -> None:
    checkpoint = options.get("inference_asr_model")
    for suffix, folder in folders.items():
        packed = folder / packed_name(folder, checkpoint)
        upload(packed, f"{options.get('hf_repo')}_{suffix}")
