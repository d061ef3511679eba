"""From a trained folder to ONNX files that have been heard to be right."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_dynsize.core.errors import ConfigError, check
from espnet_dynsize.core.files import check_absent, plain_path, whole
from espnet_dynsize.core.keys import of_transducer_task
from espnet_dynsize.core.members import Member
from espnet_dynsize.core.subnet import Subnet
from espnet_dynsize.deploy import origin
from espnet_dynsize.deploy.cut import cut
from espnet_dynsize.deploy.experiment import (
    build_model,
    find_checkpoint,
    load_model,
    load_states,
    sampling_rate,
)
from espnet_dynsize.deploy.onnx import sherpa
from espnet_dynsize.deploy.onnx.graph import package, tell_file, write
from espnet_dynsize.deploy.onnx.heard import Heard, Utterance, compare
from espnet_dynsize.deploy.onnx.int8 import quantise
from espnet_dynsize.deploy.onnx.original import kind_of, log_probabilities
from espnet_dynsize.deploy.twin.decoder import AttentionModel
from espnet_dynsize.deploy.twin.encoder import CTC, Encoder
from espnet_dynsize.deploy.twin.features import twin_features
from espnet_dynsize.deploy.twin.transducer import Transducer
from espnet_dynsize.encoder.front_end import least_frames
from espnet_dynsize.runtime import PARTS, VERSION, InputError, Model, part_path
from espnet_dynsize.train.model import JointLoss

# Log-probabilities of floats may differ by this from PyTorch's.
TOLERANCE = 1e-3
# See `kind_of`
TWINS = dict(ctc=CTC, transducer=Transducer, attention=AttentionModel)
# Tokens of ESPnet's tokenizers → what stands for a space; None: tokens are words
_SPACES = {"char": "<space>", "bpe": "▁", "word": None}
_SECONDS = (1.0, 4.3)  # of noise, on which a file is compared


class Exported(NamedTuple):
    """A file on disk."""

    path: Path
    heard: Heard | None  # with test data


class Options(NamedTuple):
    """How a model is written.

    Args:
        audio: The graph takes samples; else features.
        sherpa: As a folder for sherpa-onnx.
        search: See `kind_of`.
        quantise: Matrix products of 8-bit integers.
        data: Utterances on which the word errors before and after are counted.
        most: Share by which these may grow.
        force: Write the file all the same, or without data.
    """

    audio: bool = False
    sherpa: bool = False
    search: str | None = None
    quantise: bool = False
    data: Sequence[Utterance] = ()
    most: float = 0.03
    force: bool = False


def export(
    asr_exp: Path,
    model_file: str,
    chosen: Sequence[Member | Subnet],
    options: Options,
    names: Sequence[str] = (),
    done: Callable[[Exported], object] = lambda exported: None,
) -> list[Exported]:
    """Write `<asr_exp>/onnx/<name>.onnx`, or `<name>_int8.onnx`.

    Searched by attention, `<name>_attention.onnx`; and for sherpa-onnx,
    `<name>_sherpa/`.

    Args:
        asr_exp: Folder of a trained model of ESPnet's or this plugin's.
        model_file: Checkpoint in it; empty: see `find_checkpoint`.
        chosen: Members of a family, or subnets; none: the model as it is.
        options: How.
        names: Of the files, one for each that is chosen; none: the members'.
        done: Is told of every file when it is there.

    Raises:
        ConfigError: a file exists, the model is not for an export, a package is
            missing, or a file does not compute, or hear, what the model does.
    """
    for name in ("onnx", "onnxruntime"):
        package(name)
    if options.quantise and not (options.data or options.force):
        raise ConfigError(
            "--quantize changes what a model hears: give --data, a data directory on "
            "which that is counted, or --force."
        )
    good = not (options.sherpa and options.audio)
    check(good, "--input", "samples", "features with --format sherpa")
    asr_exp = plain_path(asr_exp)
    model_file = find_checkpoint(asr_exp, model_file)
    model, config = load_model(asr_exp, model_file)
    if of_transducer_task(config):
        raise ConfigError("encoder: dynsize_chunked is not for an export yet.")
    if chosen and not isinstance(model, JointLoss):
        raise ConfigError(f"asr_exp={asr_exp} is not a supernet with sizes.")
    if not chosen and isinstance(model, JointLoss) and model.fixed_size is not None:
        # `model_conf: subnet`: the model computes as this size.
        chosen, names = [model.subnet(model.fixed_size)], ["model"]
    names = list(names) or [member.suffix for member in chosen] or ["model"]
    paths = _paths(asr_exp, names, options)
    sha256 = origin.digest(asr_exp, model_file)
    exported = []
    for one, (name, path) in zip(chosen or [None], paths.items()):
        small = model if one is None else _cut(model, config, one)
        made = dict(model=asr_exp.name, name=name, sha256=sha256)
        heard = _write(small, config, path, options, made)
        exported.append(Exported(path, heard))
        done(exported[-1])
    return exported


def _paths(asr_exp: Path, names: Sequence[str], options: Options) -> dict[str, Path]:
    """Name, with the options, → the output, none of which exists."""
    end = "_attention" if options.search == "attention" else ""
    end += "_int8" if options.quantise else ""
    form = "_sherpa" if options.sherpa else ".onnx"
    paths = {name + end: asr_exp / "onnx" / f"{name}{end}{form}" for name in names}
    for path in paths.values():
        for each in (path, *(part_path(path, name) for name in PARTS)):
            check_absent(each)
    return paths


def _cut(model: JointLoss, config: dict, chosen: Member | Subnet) -> ESPnetASRModel:
    subnet = chosen if isinstance(chosen, Subnet) else model.subnet(chosen)
    small_config, states = cut(model, config, subnet)
    small = build_model(small_config)
    load_states(small, states, "the cut model")
    return small


def _write(
    model: ESPnetASRModel, config: dict, path: Path, options: Options, made: dict
) -> Heard | None:
    twin = TWINS[kind_of(model, options.search)](model, options.audio)
    about = _about(model, config, twin) | made
    graph = twin
    if options.sherpa:
        sherpa.check_fits(twin, about)
        graph = sherpa.Padded(twin, about["least"])
    with tempfile.TemporaryDirectory(prefix="espnet_dynsize_") as scratch:
        floats = written = Path(scratch) / "floats.onnx"
        write(graph, floats, about, _examples(twin, model))
        try:
            _check_floats(model, Model(floats), about["rate"])
        except InputError as error:
            raise ConfigError(str(error)) from error
        if options.quantise:
            about["quantised"] = "int8"
            written = Path(scratch) / "int8.onnx"
            quantise(floats, written, about)
            for name in twin.parts:
                shutil.copyfile(part_path(floats, name), part_path(written, name))
        heard = None
        if options.data:
            heard = compare(model, written, options.data)
            _check_heard(heard, options)
            tell_file(written, about | dict(heard=heard._asdict()))
        if options.sherpa:
            sherpa.write_folder(written, path, about)
            return heard
        # The encoder last: where it is, all is.
        for name in twin.parts:
            _copy(part_path(floats, name), part_path(path, name))
        _copy(written, path)
    return heard


def _copy(written: Path, path: Path) -> None:
    with whole(path) as partial:
        shutil.copyfile(written, partial)
        check_absent(path)  # another process may have been faster


def _check_heard(heard: Heard, options: Options) -> None:
    if heard.grown <= options.most or options.force:
        return
    raise ConfigError(
        f"{heard}: more than {100 * options.most:g} % more errors; --force writes the "
        "file all the same."
    )


def _about(model: ESPnetASRModel, config: dict, twin: Encoder) -> dict:
    """The metadata: all that a runner needs besides the graph."""
    kind = config.get("token_type")
    allowed = f"one of {[*_SPACES]} for an export"
    check(kind in _SPACES, "token_type", kind, allowed)
    space = config.get("space_symbol") if kind == "char" else None
    if model.frontend is None:
        raise ConfigError(
            "frontend must be default or kaldi for an export: this model takes "
            "features, which a runner could not make."
        )
    front = twin_features(model.frontend)
    frames = least_frames(model.encoder.embed)
    return dict(
        version=VERSION,
        kind=twin.kind,
        input="features" if twin.logmel is None else "samples",
        rate=sampling_rate(config),
        # Of a file of tokens, the model has what is in it.
        tokens=list(model.token_list)[: twin.tokens],
        space=space or _SPACES[kind],
        pieces=kind == "bpe",
        least=frames if twin.logmel is None else front.least_samples(frames),
        features=front.about,
    )


def _examples(twin: Encoder, model: ESPnetASRModel) -> torch.Tensor:
    """What the graph is traced with: its shape is not part of it."""
    if twin.logmel is not None:
        return torch.randn(2, 16_000)
    return torch.randn(2, 200, model.frontend.output_size())


@torch.no_grad()
def _check_floats(model: ESPnetASRModel, found: Model, rate: int) -> None:
    """Refuse a file that does not compute what the model does.

    Raises:
        ConfigError: it does not.
    """
    front = twin_features(model.frontend)
    shortest = front.least_samples(least_frames(model.encoder.embed))
    for seconds in _SECONDS:
        noise = torch.randn(max(int(seconds * rate), shortest))
        # After some tokens: each of a model's parts has a share in that.
        kind = found.about["kind"]
        said = [] if kind == "ctc" else [1, 1]
        theirs = log_probabilities(model, noise, kind, said).numpy()
        ours = found.log_probabilities(noise.numpy(), said)
        same = ours.shape == theirs.shape
        error = float(np.abs(ours - theirs).max()) if same else float("inf")
        if not error <= TOLERANCE:
            raise ConfigError(
                f"the file computes something else than the model (by {error:.2g}): "
                "please report this."
            )
