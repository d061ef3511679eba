"""`espnet-dynsize transcribe`: what a model hears in audio files."""

import argparse
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from espnet_dynsize.core.errors import ConfigError, check, printable

STDIN = Path("-")
CHUNK, LONGEST_CHUNK = 0.2, 60.0  # seconds
# Options of `espnet_dynsize.load` that models may have
_OPTIONS = ("beam_size", "decoding_window", "left_context")


def add_parser(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser(
        "transcribe",
        help="write what a model hears in audio files",
        description="For every file: its name, the text, the seconds it took and "
        "the real-time factor, between tabs. Any sampling rate (an .onnx file takes "
        "its own alone) and length; channels "
        "are averaged, and what is longer than 30 s is cut at silences. With "
        "--streaming, the audio is heard as if it were spoken now: what is heard by "
        "then goes to stderr, and the line has the name, the text, the seconds that "
        "a block of the encoder's (or a decoding window) waits for, the time that a "
        "chunk takes (median and 95th percentile, in per cent of its duration), all "
        "time in per cent of the "
        "audio's, and the median delay of the words after their end. A file that "
        "cannot be done gets a line on stderr, its name and the reason; the others "
        "are done, and the exit code is 2.",
    )
    parser.add_argument(
        "model",
        type=Path,
        help="zip, folder of a trained model, or .onnx file of `export`",
    )
    parser.add_argument(
        "audio",
        nargs="+",
        type=Path,
        help="wav, flac, ogg, … files; with --streaming, - is standard input: 16-bit "
        "samples of one channel at the model's rate, without a header",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--size",
        help="member of a supernet, such as 16 or sparsity70 (default: the full one)",
    )
    which.add_argument(
        "--subnet", type=Path, help="yaml file of any subnet, as for extract"
    )
    parser.add_argument(
        "--context", help="of a family with contexts: 'whole' or one such as 20/8/8"
    )
    parser.add_argument("--model_file", default="", help="checkpoint in a folder")
    parser.add_argument(
        "--beam_size", type=int, help="default: ESPnet's; 1 for a model with only CTC"
    )
    parser.add_argument("--device", default="cpu", help="%(default)s")
    parser.add_argument(
        "--backend",
        choices=("dense", "sparse"),
        default="dense",
        help="sparse: matrices with zeros compute without them (%(default)s)",
    )
    parser.add_argument(
        "--streaming", action="store_true", help="chunk by chunk, as audio comes"
    )
    parser.add_argument(
        "--chunk", type=float, help="with --streaming: seconds of audio (0.2)"
    )
    parser.add_argument(
        "--decoding_window",
        type=int,
        help="with --streaming, of a model of the task asr_transducer: milliseconds "
        "that are encoded at once (ESPnet's: 640)",
    )
    parser.add_argument(
        "--left_context",
        type=int,
        help="of the same: frames of the encoder that it sees before these (32)",
    )
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    if args.model.suffix == ".onnx":
        return _with_runtime(args)
    from tqdm import tqdm

    from espnet_dynsize.core.subnet import Subnet
    from espnet_dynsize.core.yaml_base import read_yaml
    from espnet_dynsize.deploy.open import open_model

    _check_streaming(args)
    chosen = args.size
    if args.subnet is not None:
        chosen = Subnet.from_yaml(read_yaml(args.subnet), str(args.subnet))
    logging.disable(logging.WARNING)
    recogniser = open_model(
        args.model,
        chosen,
        args.model_file,
        device=args.device,
        streaming=args.streaming,
        context=args.context,
        backend=args.backend,
        **{key: getattr(args, key) for key in _OPTIONS},  # None: left out
    )
    if not args.streaming:
        _check_model(recogniser, args.model)
    failed = False
    hidden = len(args.audio) < 2 or not sys.stderr.isatty()
    for path in tqdm(args.audio, unit="file", file=sys.stderr, disable=hidden):
        # tqdm.write moves the bar out of the way.
        try:
            line = (
                _streamed(recogniser, path, args.chunk or CHUNK)
                if args.streaming
                else _line(recogniser, path)
            )
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()
        except ConfigError as error:
            tqdm.write(printable(str(error)), file=sys.stderr)
            failed = True
    return 2 if failed else 0


def _with_runtime(args: argparse.Namespace) -> int:
    """Without PyTorch."""
    from espnet_dynsize import runtime

    defaults = dict(model_file="", device="cpu", streaming=False, backend="dense")
    given = {
        key: value
        for key, value in vars(args).items()
        if key not in ("model", "audio", "function", "beam_size")
        and value != defaults.get(key)
    }
    for key, value in given.items():
        check(False, f"--{key}", value, f"left out: {args.model} has one way to hear")
    beam = [] if args.beam_size is None else [f"--beam_size={args.beam_size}"]
    return runtime.main([*beam, "--", str(args.model), *map(str, args.audio)])


def _check_model(recogniser, model: Path) -> None:
    try:
        recogniser.check_takes_audio()
    except ConfigError as error:
        raise ConfigError(f"model={model}: {error}") from error


def _line(recogniser, path: Path) -> str:
    """Name, text, time and real-time factor of a file."""
    from espnet_dynsize.deploy.audio import shown, transcribe_file

    start = time.perf_counter()
    text, audio_seconds = transcribe_file(recogniser, path, recogniser.rate)
    seconds = time.perf_counter() - start
    rtf = seconds / audio_seconds
    return f"{shown(path)}\t{printable(text)}\t{seconds:.2f} s\tRTF {rtf:.3f}"


def _check_streaming(args: argparse.Namespace) -> None:
    if not args.streaming:
        check(args.chunk is None, "--chunk", args.chunk, "left out without --streaming")
        check(STDIN not in args.audio, "audio", "-", "with --streaming, or a file")
        return
    good = args.chunk is None or 0 < args.chunk <= LONGEST_CHUNK
    check(good, "--chunk", args.chunk, f"above 0 and at most {LONGEST_CHUNK}")
    check(args.audio.count(STDIN) < 2, "audio", "-", "given once")
    if STDIN in args.audio:
        there = sys.stdin is not None and not sys.stdin.isatty()
        check(there, "audio", "-", "given with samples on standard input")


def _streamed(recogniser, path: Path, seconds: float) -> str:
    """Name, text and latencies of a file that is heard chunk by chunk."""
    from espnet_dynsize.deploy.audio import errors_with, shown
    from espnet_dynsize.deploy.latency import listen

    samples = max(round(seconds * recogniser.rate), 1)
    chunks = _spoken(samples) if path == STDIN else _read(recogniser, path, samples)
    # `_read` says itself of which file it speaks.
    with errors_with(path) if path == STDIN else nullcontext():
        text, latency = listen(recogniser, chunks, _show)
    words = "–" if latency.words is None else f"{latency.words:.2f} s"
    parts = f"{latency.median:.1%} {latency.percentile:.1%}"
    costs = f"chunk {parts}", f"all {latency.total:.1%}"
    waits = f"waits {recogniser.delay:.2f} s"
    return "\t".join((shown(path), printable(text), waits, *costs, f"words {words}"))


def _show(heard) -> None:
    from tqdm import tqdm

    tqdm.write(f"{heard.seconds:.2f} s\t{printable(heard.text)}", file=sys.stderr)


def _read(recogniser, path: Path, samples: int) -> Iterator:
    from espnet_dynsize.deploy.audio import read_audio, resampled

    audio = resampled(*read_audio(path), recogniser.rate).numpy()
    for begin in range(0, len(audio), samples):
        yield audio[begin : begin + samples]


def _spoken(samples: int) -> Iterator:
    """16-bit samples as they come through standard input, until Ctrl-C."""
    import numpy as np

    begun, odd = False, b""
    while True:
        try:
            data = sys.stdin.buffer.read(2 * samples)
        except KeyboardInterrupt:
            return
        if not data:
            return
        if not begun and data[:4] in (b"RIFF", b"fLaC", b"OggS"):
            raise ConfigError("has a header: give samples alone, or the file's name.")
        begun, data = True, odd + data
        whole = len(data) - len(data) % 2
        data, odd = data[:whole], data[whole:]
        if data:
            yield np.frombuffer(data, "<i2")
