"""Time of models on a device: ESPnet's, cut ones, and their ONNX files.

    python benchmarks/inference.py [--repeats 9] [--seconds 10]
    python benchmarks/inference.py --asr_exp DIR --data DIR

One thread; all forms of a width take turns within a repeat, and a ratio is the median
over repeats of ESPnet's full encoder's time divided by the form's in the same repeat.
The first line times Conformers of 12 blocks with random weights, from features to the
tokens of CTC, where ¼ and ½ are of the layers, chosen at random. The second takes a
trained family and a data directory (wav.scp, text): files of samples to text, word
errors, and the memory that a process takes for one file. Each writes its part of
results/inference.json, from which results/inference.md is built.
"""

import argparse
import json
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jiwer
import torch

from espnet_dynsize.deploy.audio import read_audio
from espnet_dynsize.deploy.experiment import build_model
from espnet_dynsize.deploy.extract import members_of
from espnet_dynsize.deploy.onnx.export import Options, export
from espnet_dynsize.deploy.onnx.graph import write
from espnet_dynsize.deploy.onnx.heard import read_data
from espnet_dynsize.deploy.onnx.int8 import quantise
from espnet_dynsize.deploy.open import open_model
from espnet_dynsize.deploy.twin.encoder import CTC
from espnet_dynsize.runtime import Model, read
from espnet_dynsize.train.task import DynSizeASRTask

RESULTS = Path(__file__).resolve().parent / "results"
FILE = RESULTS / "inference.json"
BLOCKS, MELS, TOKENS = 12, 80, 500
FRONT_ENDS = ("conv2d", "separable_conv2d")
BEAM = 4  # texts of a search
SHARES = {"full": 1.0, "½": 0.5, "¼": 0.25}
FORMS = ("ESPnet's encoder, cut", "twin", "ONNX", "ONNX, int8")


def config(width: int, input_layer: str) -> dict:
    base = DynSizeASRTask.get_default_config()
    encoder = dict(
        output_size=width,
        attention_heads=4,
        linear_units=4 * width,
        num_blocks=BLOCKS,
        macaron_style=True,
        rel_pos_type="latest",
        cnn_module_kernel=31,
        input_layer=input_layer,
    )
    return base | dict(
        token_list=["<blank>", *(f"t{i}" for i in range(1, TOKENS))],
        frontend=None,
        input_size=MELS,
        specaug=None,
        normalize=None,
        encoder="dynsize_conformer",
        encoder_conf=encoder,
        decoder=None,
        model_conf=dict(ctc_weight=1.0),
    )


def forms(model, folder: Path, features: torch.Tensor) -> dict[str, Callable]:
    """Form → a call that recognises the features [1, T, D]."""
    lengths = torch.tensor([features.size(1)])
    twin, floats, integers = CTC(model, False), folder / "a.onnx", folder / "b.onnx"
    write(twin, floats, {}, features.repeat(2, 1, 1))
    quantise(floats, integers, {})
    sessions = [_session(path) for path in (floats, integers)]
    feed = {"x": features.numpy(), "lengths": lengths.numpy()}

    @torch.no_grad()
    def eager():
        encoded, _ = model.encode(features.clone(), lengths)
        return model.ctc.argmax(encoded)

    @torch.no_grad()
    def as_twin():
        return twin(features, lengths)[0].argmax(-1)

    def files(session):
        return lambda: session.run(None, feed)[0].argmax(-1)

    calls = (eager, as_twin, *map(files, sessions))
    sizes = (None, None, *(path.stat().st_size for path in (floats, integers)))
    return {form: (c, size) for form, c, size in zip(FORMS, calls, sizes)}


def _session(path: Path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options)


def shares(width: int, args, folder: Path) -> list[dict]:
    """Rows of one width."""
    torch.manual_seed(0)
    features = torch.randn(1, int(100 * args.seconds), MELS)
    calls, sizes = {}, {}
    for input_layer in FRONT_ENDS:
        for name, share in SHARES.items():
            small = build_model(config(width, input_layer))
            number = small.encoder.num_units
            kept = random.Random(0).sample(range(number), int(share * number))
            small.encoder.keep_units(sorted(kept))
            for form, (call, size) in forms(small, folder, features).items():
                key = input_layer, name, form
                calls[key], sizes[key] = call, size
    reference = FRONT_ENDS[0], "full", FORMS[0]
    return [
        dict(
            width=width,
            input_layer=key[0],
            layers=key[1],
            form=key[2],
            ratio=round(ratio, 2),
            megabytes=None if sizes[key] is None else sizes[key] / 1e6,
        )
        for key, ratio in turns(calls, reference, args.repeats).items()
    ]


def turns(calls: dict, reference: tuple, repeats: int) -> dict:
    """Call → median over repeats of the reference's time divided by its own."""
    times = {key: [] for key in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for key, call in calls.items():
            start = time.perf_counter()
            call()
            times[key].append(time.perf_counter() - start)
    return {
        key: statistics.median(r / t for r, t in zip(times[reference], times[key]))
        for key in calls
    }


def trained(args, folder: Path) -> list[dict]:
    """Rows of a trained family: samples to text."""
    data = read_data(args.data)
    chosen = members_of(args.asr_exp)
    # Exports go beside the model: into a copy, which is thrown away.
    copy = folder / args.asr_exp.name
    copy.mkdir()
    for path in args.asr_exp.iterdir():
        if path.suffix in (".yaml", ".pth"):
            (copy / path.name).symlink_to(path.resolve())
    options = Options(data=data, force=True)
    done = export(copy, args.model_file, chosen, options)
    done += export(copy, args.model_file, chosen, options._replace(quantise=True))
    waveforms = [read_audio(utterance.audio)[0] for utterance in data[: args.files]]
    calls, about, heard = {}, {}, {}
    for member in chosen:
        key = f"size {member}", "ESPnet's recogniser"
        calls[key] = _hears(open_model(copy, member.name), waveforms)
    for one in done:
        form = "ONNX, int8" if one.path.stem.endswith("_int8") else "ONNX"
        key = one.path.stem.removesuffix("_int8").replace("size", "size "), form
        calls[key] = _hears(Model(one.path), waveforms)
        about[key] = one
        wide = Model(one.path, beam_size=BEAM)
        calls[key[0], f"{form}, beam of {BEAM}"] = _hears(wide, waveforms)
        heard[key[0], f"{form}, beam of {BEAM}"] = _word_errors(wide, data)
    memory = {
        key: peak_megabytes(one.path, data[0].audio) for key, one in about.items()
    }
    reference = f"size {chosen[-1]}", "ESPnet's recogniser"
    for member in chosen:
        key = f"size {member}", reference[1]
        memory[key] = peak_megabytes(copy, data[0].audio, "--size", member.name)
    rows = []
    for key, ratio in turns(calls, reference, args.repeats).items():
        row = dict(model=key[0], form=key[1], ratio=round(ratio, 2))
        if key in memory:
            row["peak_megabytes"] = round(memory[key])
        if key in about:
            row |= dict(megabytes=about[key].path.stat().st_size / 1e6)
            row |= about[key].heard._asdict()
        if key in heard:
            row |= heard[key]
        rows.append(row)
    return rows


def _word_errors(model: Model, data: list) -> dict:
    said = [model.transcribe(read(u.audio, model.rate)) for u in data]
    counts = jiwer.process_words([u.text for u in data], said)
    words = counts.hits + counts.substitutions + counts.deletions
    return dict(words=words, after=round(counts.wer * words))


def _hears(recogniser: Callable, waveforms: list) -> Callable:
    return lambda: [recogniser(samples) for samples in waveforms]


# What a process has had at most; of a child, the system would count its parent's, too.
_PEAK = """
import re, sys
from espnet_dynsize.bin.main import main
failed = main(sys.argv[1:])
status = open("/proc/self/status").read()
sys.exit(failed or print(re.search(r"VmHWM:\\s+(\\d+)", status)[1], file=sys.stderr))
"""


def peak_megabytes(model: Path, audio: Path, *options: str) -> float:
    """Of a process that transcribes one file, all libraries included."""
    command = [sys.executable, "-c", _PEAK, "transcribe", str(model), str(audio)]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    done.check_returncode()
    return int(done.stderr.splitlines()[-1]) / 1024


def markdown(found: dict) -> str:
    lines = ["# Inference on one thread", ""]
    lines += [
        "How many times as fast as ESPnet's full encoder with `conv2d` (12 blocks,"
    ]
    lines += ["random weights; features of 10 s to tokens), by channels and front-end:"]
    lines += [""]
    widths = {(r["width"], r["input_layer"]) for r in found.get("shares", [])}
    heads = sorted(widths, key=lambda w: (w[1], w[0]))
    lines += ["| layers | form | " + " | ".join(f"{w}, {i}" for w, i in heads) + " |"]
    lines += ["|---|---" + "|---:" * len(heads) + "|"]
    for share in SHARES:
        for form in FORMS:
            row = {
                (r["width"], r["input_layer"]): r["ratio"]
                for r in found.get("shares", [])
                if (r["layers"], r["form"]) == (share, form)
            }
            cells = " | ".join(f"{row[w]:.2f}" if w in row else "–" for w in heads)
            lines.append(f"| {share} | {form} | {cells} |")
    lines += ["", "A family on AN4 (the recipe's, of 48 channels): how many times as"]
    lines += ["fast as ESPnet's recogniser of the full size, samples to text (of its"]
    lines += [
        "time, most is the search, of one hypothesis; files are searched greedily);"
    ]
    lines += ["the file; the peak memory of a process that transcribes one utterance;"]
    lines += ["and word error rates of greedy CTC, of PyTorch and of the file (with a"]
    lines += ["beam where it says so), on 219 utterances of other speakers:", ""]
    lines += ["| model | form | times as fast | MB | peak MB | PyTorch % | file % |"]
    lines += ["|---|---|---:|---:|---:|---:|---:|"]
    for r in found.get("trained", []):
        size = f"{r['megabytes']:.2f}" if "megabytes" in r else "–"
        rates = ["–", "–"]
        if "words" in r:
            rates = [
                f"{100 * r[k] / r['words']:.1f}" if k in r else "–"
                for k in ("before", "after")
            ]
        peak = r.get("peak_megabytes", "–")
        cells = [r["model"], r["form"], f"{r['ratio']:.2f}", size, peak]
        lines.append("| " + " | ".join(map(str, [*cells, *rates])) + " |")
    machines = ", ".join(sorted({str(found[k]) for k in found if k.endswith("on")}))
    lines += ["", f"Machine: {machines}. Command: see the script's first lines."]
    return "\n".join(lines) + "\n"


def machine() -> str:
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    vectors = [v for v in ("avx512_vnni", "avx512f", "avx2") if f" {v} " in text]
    return f"{platform.machine()} {vectors[0] if vectors else ''}".strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--asr_exp", type=Path, help="folder of a trained family")
    parser.add_argument("--model_file", default="", help="checkpoint in it")
    parser.add_argument("--data", type=Path, help="data directory")
    parser.add_argument("--files", type=int, default=20, help="that are timed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(FILE.read_text()) if FILE.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        if args.asr_exp is not None:
            found["trained"] = trained(args, Path(folder))
            found["trained on"] = machine()
        else:
            rows = [r for w in args.widths for r in shares(w, args, Path(folder))]
            found["shares"], found["shares on"] = rows, machine()
    FILE.write_text(json.dumps(found, indent=1) + "\n")
    FILE.with_suffix(".md").write_text(markdown(found))
    print(markdown(found))


if __name__ == "__main__":
    main()
