"""`espnet-dynsize transcribe`: what a model hears in audio files."""

import argparse
import logging
import time
from pathlib import Path


def add_parser(verbs: argparse._SubParsersAction) -> None:
    parser = verbs.add_parser(
        "transcribe",
        help="write what a model hears in audio files",
        description="For every file: its name, the text, the seconds it took and "
        "the real-time factor, between tabs. Any sampling rate; channels are averaged.",
    )
    parser.add_argument("model", type=Path, help="zip, or folder of a trained model")
    parser.add_argument("audio", nargs="+", type=Path, help="wav, flac, ogg, … files")
    parser.add_argument(
        "--size", type=int, help="of a supernet (default: the full one)"
    )
    parser.add_argument("--model_file", default="", help="checkpoint in a folder")
    parser.add_argument(
        "--beam_size", type=int, help="default: ESPnet's; 1 for a model with only CTC"
    )
    parser.add_argument("--device", default="cpu", help="%(default)s")
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    from espnet_dynsize.deploy.audio import read_audio, transcribe
    from espnet_dynsize.deploy.experiment import sampling_rate
    from espnet_dynsize.deploy.open import open_model

    logging.disable(logging.WARNING)
    waveforms = [read_audio(path) for path in args.audio]
    options = {} if args.beam_size is None else {"beam_size": args.beam_size}
    recogniser = open_model(
        args.model, args.size, args.model_file, device=args.device, **options
    )
    rate = sampling_rate(vars(recogniser.asr_train_args))
    for path, (samples, own_rate) in zip(args.audio, waveforms):
        start = time.perf_counter()
        text = transcribe(recogniser, samples, own_rate, rate)
        seconds = time.perf_counter() - start
        rtf = seconds * own_rate / len(samples)
        print(f"{path}\t{text}\t{seconds:.2f} s\tRTF {rtf:.3f}", flush=True)
    return 0
