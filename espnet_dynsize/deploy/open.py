"""One call from a trained model to a recogniser of one size."""

import inspect
import logging
import tempfile
import weakref
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Literal, NoReturn

import torch
import yaml
from espnet2.bin import (
    asr_inference,
    asr_inference_streaming,
    asr_transducer_inference,
)

from espnet_dynsize.control.selectors import opening
from espnet_dynsize.core import yaml_base
from espnet_dynsize.core.context import Context, family_contexts
from espnet_dynsize.core.errors import ConfigError, check
from espnet_dynsize.core.keys import (
    check_complete,
    is_plugin,
    kept_units,
    needs_plugin,
    of_transducer_task,
)
from espnet_dynsize.core.located import BPEMODEL, STATISTICS, locate
from espnet_dynsize.core.schema import Count, check_value
from espnet_dynsize.core.subnet import Subnet
from espnet_dynsize.deploy import decoding, origin
from espnet_dynsize.deploy.archive import unpack
from espnet_dynsize.deploy.cut import cut
from espnet_dynsize.deploy.experiment import find_checkpoint, load_files
from espnet_dynsize.deploy.language_model import check_language_model
from espnet_dynsize.deploy.named import check_named
from espnet_dynsize.deploy.recogniser import Recogniser
from espnet_dynsize.deploy.stream import Stream
from espnet_dynsize.deploy.streaming import StreamingRecogniser
from espnet_dynsize.deploy.transducer import StreamingTransducer, TransducerRecogniser
from espnet_dynsize.encoder.blocked import kernel_is_there, leave_out_zeros
from espnet_dynsize.train.model import JointLoss
from espnet_dynsize.train.streaming import check_chunked, check_streams
from espnet_dynsize.train.task import DynSizeASRTask
from espnet_dynsize.train.transducer_task import DynSizeASRTransducerTask

CONFIG, CHECKPOINT = "asr_train_config", "asr_model_file"
# Options of `Speech2Text` that are arguments here, or not for this
_TAKEN = (
    *("self", CONFIG, CHECKPOINT, "streaming", "enh_s2t_task", "multi_asr"),
    *("asr_model", "asr_train_args", "return_decoded_hyp"),
)
BACKENDS = ("dense", "sparse")
# In half precision, ESPnet's search fails.
Dtype = Literal["float32", "float64", "bfloat16"]
_CHECKED = {"nbest": Count, "dtype": Dtype}
# Options of `Speech2Text` that count before the config's keys
_TOKENIZER = ("token_type", BPEMODEL)


def load(
    path: str | Path,
    size: int | str | Subnet | None = None,
    model_file: str = "",
    streaming: bool = False,
    context: str | None = None,
    backend: str = "dense",
    **options,
) -> Recogniser | TransducerRecogniser | Stream:
    """Open a trained model at one size.

    Args:
        path: Folder of a trained supernet or of an extracted size, or a zip that
            `espnet2.bin.pack` has made of one. Relative paths in a folder's
            config.yaml (statistics, tokenizers) are looked up in the folder and those
            above it, then from where you are, as ESPnet does.
        size: One of the family, by number or name (`16`, `sparsity70`,
            `16_sparsity70`), or any `Subnet` of a supernet; None: the full network, or
            the one that a cut model has.
        model_file: Checkpoint in the folder; empty: see `find_checkpoint`.
        streaming: It is handed audio as it comes, and tells what it has heard by then.
        context: Of a family with contexts: `whole`, or one such as `20/8/8`; None: the
            encoder's own.
        backend: `sparse`: matrices with zeros compute without them (on a CPU, one
            thread a product); where llvmlite is missing, as with `dense`.
        **options: Options of ESPnet's `Speech2Text`, such as `beam_size` or `device`.
            Left out: those with which a packed model was scored, if it says so; else a
            model that has only CTC is decoded greedily.

    Returns:
        ESPnet's `Speech2Text` that checks its input: call it with audio (array
        [samples], at the sampling rate of training) and get
        `[(text, tokens, ids, hypothesis), …]`; `transcribe(samples, rate)` takes audio
        of any length and rate. With `streaming`, see `Stream`; of the task
        `asr_transducer`, with ESPnet's `decoding_window` (milliseconds) and
        `left_context` (frames).

    Raises:
        ConfigError: the path holds no model of this plugin, or not this size, or one
            that does not stream.
    """
    return open_model(
        path, size, model_file, True, streaming, context, backend, **options
    )


def open_model(
    path: str | Path,
    size: int | str | Subnet | None = None,
    model_file: str = "",
    plugin_only: bool = False,
    streaming: bool = False,
    context: str | None = None,
    backend: str = "dense",
    **options,
) -> Recogniser | TransducerRecogniser | Stream:
    """`load` that also opens models without this plugin, unless `plugin_only`."""
    for module in (asr_inference, asr_inference_streaming):
        module.ASRTask = DynSizeASRTask  # ESPnet's is imported by name there
    asr_transducer_inference.ASRTransducerTask = DynSizeASRTransducerTask
    check_value("streaming", streaming, bool)
    _check_path("path", path)
    model_file = model_file or ""
    _check_path("model_file", model_file, empty=True)
    options = {key: value for key, value in options.items() if value is not None}
    _check_options(options)
    decoding.check_search(options)
    _check_size(size)
    options["device"] = _device(options.get("device", "cpu"))
    check(backend in BACKENDS, "backend", backend, f"one of {list(BACKENDS)}")
    good = backend == "dense" or options["device"].startswith("cpu")
    check(good, "backend", backend, "dense on a GPU")
    folder = tempfile.TemporaryDirectory(prefix="espnet_dynsize_")
    try:
        files = _files(Path(path), model_file, Path(folder.name))
        config = _check(path, Path(files[CONFIG]), size, plugin_only)
        taker = _taker(config, streaming)
        known = _options_of(taker)
        for key in options:
            allowed = "left out: load has no such option for this model"
            if key in taker.taken:
                allowed = f"left out {'with' if streaming else 'without'} streaming"
            check(key in known, key, options[key], allowed)
        located = locate(config, Path(files[CONFIG]).parent)
        tokenizer = {k: options[k] for k in _TOKENIZER if options.get(k) is not None}
        check_named({**located, **tokenizer}, STATISTICS, BPEMODEL)
        check_language_model({**files, **options}, located)
        if context is not None:
            _check_context(path, config, context)
        if streaming:
            _check_streams(path, _in_context(config, context))
        chosen = size is not None or context is not None
        if chosen and kept_units(config) is None:
            files |= _extracted(config, files, size, Path(folder.name), context)
        kept = decoding.read(Path(files[CONFIG]).parent)
        kept = {key: value for key, value in kept.items() if key in known}
        options = {**decoding.default_search(config), **kept, **options}
        decoding.check_fits(options, config)
        if streaming:
            decoding.check_streaming_search(options)
        with opening():
            recogniser = taker(**{**files, **options})
            if not isinstance(recogniser.asr_model, JointLoss):
                recogniser.asr_model.activate = _refuse_activate
        if backend == "sparse":
            _use_zeros(path, recogniser.asr_model.encoder)
    except BaseException:
        folder.cleanup()
        raise
    # A tokenizer may read its file from the zip at first use.
    weakref.finalize(recogniser, folder.cleanup)
    return recogniser


def _use_zeros(path: str | Path, encoder: torch.nn.Module) -> None:
    if not kernel_is_there():
        logging.warning("backend=sparse: llvmlite is not installed; nothing is faster.")
    elif not leave_out_zeros(encoder):
        raise ConfigError(
            f"backend=sparse must be dense: {path} has no matrix whose zeros could be "
            "left out; of a supernet, choose a sparse member."
        )


def _refuse_activate(chosen: object) -> NoReturn:
    raise ConfigError(
        f"activate({chosen!r}): this model has only one size; open the supernet "
        "without a size, whose model has them all."
    )


def _check_path(key: str, value: object, empty: bool = False) -> None:
    good = isinstance(value, str | Path) and (empty or value != "")
    check(good, key, value, "a string or a pathlib.Path")


def _taker(config: Mapping, streaming: bool) -> type:
    """What takes audio for a model."""
    if of_transducer_task(config):
        return StreamingTransducer if streaming else TransducerRecogniser
    return StreamingRecogniser if streaming else Recogniser


def _options_of(taker: type) -> set[str]:
    """The options that a recogniser has besides those that are arguments here."""
    known = inspect.signature(taker.__bases__[-1].__init__).parameters.keys()
    return known - {*_TAKEN, *taker.taken}


def _check_streams(path: str | Path, config: Mapping) -> None:
    if of_transducer_task(config):
        check_chunked(path, config)
        return
    check_streams(path, config)
    conf = config.get("encoder_conf") or {}
    for key in ("block_size", "hop_size", "look_ahead"):
        # ESPnet's own encoders have defaults, and with 0 do not stream.
        good = key in conf and (conf[key] or key == "look_ahead")
        allowed = "written in the config, and not 0"
        check(good, f"{path}: encoder_conf: {key}", conf.get(key), allowed)
    layer = conf.get("input_layer", "conv2d")
    good = is_plugin(config) or str(layer).startswith("conv2d")
    allowed = "one of convolutions: with others, ESPnet's encoder repeats frames"
    check(good, f"{path}: encoder_conf: input_layer", layer, allowed)


def _in_context(config: dict, context: str | None) -> dict:
    return (
        config if context is None else Context.read(context, "context").within(config)
    )


def _check_context(path: str | Path, config: Mapping, context: str) -> None:
    names = [known.name for known in family_contexts(config)]
    allowed = f"one of {names}" if names else f"left out: {path} has one"
    check(context in names, "context", context, allowed)


def _check_options(options: Mapping[str, object]) -> None:
    for key, annotation in _CHECKED.items():
        if key in options:
            check_value(key, options[key], annotation)


def _check_size(size: object) -> None:
    whole = isinstance(size, Integral) and not isinstance(size, bool)
    good = size is None or isinstance(size, Subnet | str) or whole
    allowed = "a whole number or a name of a member of the family, a Subnet or None"
    check(good, "size", size, allowed)


def _device(device: object) -> str:
    """A device's name as ESPnet takes it.

    Raises:
        ConfigError: it is not there; ESPnet would find out after loading.
    """
    try:
        found = torch.empty(1, device=device).device
    except Exception:  # what torch raises depends on the device
        found = None
    there = found is not None and found.type != "meta"
    check(there, "device", device, "cpu, cuda or cuda:N, and on this machine")
    return "cpu" if found.type == "cpu" else str(found)


def _files(path: Path, model_file: str, folder: Path) -> dict[str, str]:
    """Arguments of `Speech2Text` that name the model's files."""
    if path.is_dir():
        checkpoint = path / find_checkpoint(path, model_file)
        return {CONFIG: str(path / "config.yaml"), CHECKPOINT: str(checkpoint)}
    if not path.is_file():
        raise ConfigError(f"path={path} does not exist: give a folder or a zip.")
    files = unpack(path, folder)
    missing = {CONFIG, CHECKPOINT} - set(files)
    if missing:
        raise ConfigError(f"path={path} is not a packed ASR model: no {min(missing)}.")
    return files


def _check(
    path: str | Path,
    config_file: Path,
    size: int | str | Subnet | None,
    plugin_only: bool,
) -> dict:
    config = yaml_base.read_config(config_file)
    check_complete(config, f"{path}: {config_file.name}")
    if not needs_plugin(config):
        if size is None and not plugin_only:
            return config
        raise ConfigError(
            f"path={path} holds encoder: {config.get('encoder')}, not a model of this "
            "plugin; open it with ESPnet's Speech2Text."
        )
    held = _held(config, config_file.parent)
    asked = size if isinstance(size, Subnet) else str(size)
    if size is not None and held is not None and asked not in held:
        raise ConfigError(f"size={size} is not in {path}, which holds size {held[0]}.")
    return config


def _held(config: dict, folder: Path) -> list[str | Subnet] | None:
    """The name and the subnet of a cut model; None for a supernet.

    Without the record of its origin, a cut model is called by its units.
    """
    kept = kept_units(config)
    if kept is None:
        return None
    record = origin.read(folder) or {"size": len(kept)}
    name = origin.name(record)
    held = [] if name is None else [name]
    if "subnet" in record:
        held.append(Subnet.from_yaml(record["subnet"], f"{folder}/{origin.NAME}"))
    return held


def _extracted(
    config: dict,
    files: dict,
    size: int | str | Subnet | None,
    folder: Path,
    context: str | None,
) -> dict[str, str]:
    """Files of the cut model, in place of the supernet's."""
    source = Path(files[CONFIG]).parent
    model, config = load_files(config, source, Path(files[CHECKPOINT]), CHECKPOINT)
    if size is None:
        schedule = model.schedule
        size = model.fixed_size or schedule.only or schedule.selection.family.full
    subnet = size if isinstance(size, Subnet) else model.subnet(size)
    small_config, states = cut(model, config, subnet, context=context)
    paths = {CONFIG: str(folder / "cut.yaml"), CHECKPOINT: str(folder / "cut.pth")}
    Path(paths[CONFIG]).write_text(yaml.safe_dump(small_config), encoding="utf-8")
    torch.save(states, paths[CHECKPOINT])
    return paths
