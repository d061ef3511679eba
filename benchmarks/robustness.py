"""Bad input, hostile files, kills: what the real commands make of them now.

    python benchmarks/robustness.py [--work DIR] [--only 1 17 23]

Every row of the table is tried through the command line, each command in a process of
its own, forked from one that has ESPnet imported. A row is `right` where the result is
what it has to be, and `refused` where one sentence says what is wrong, before any work.
What is done is kept in DIR: a run that was stopped goes on.
"""

import argparse
import atexit
import json
import logging
import os
import pickle
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
import yaml

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from experiment import AVERAGED, MODEL, experiment  # noqa: E402
from training import train_arguments, write_data  # noqa: E402

import espnet_dynsize  # noqa: E402
from espnet_dynsize.bin.main import main as command_line  # noqa: E402
from espnet_dynsize.core.files import digest  # noqa: E402
from espnet_dynsize.report.scores import write_score  # noqa: E402

RESULT = HERE / "results" / "robustness.md"
TRAIN = ("run", "-m", "espnet2.bin.asr_train")
VALID = "valid.loss.ave.pth"


class WrongError(Exception):
    """A row's result is neither right nor a sentence."""


@dataclass(frozen=True)
class Row:
    """A kind of fault with its smallest example.

    Args:
        number: In the table; public reports have an R.
        kind: What is at stake.
        example: The smallest one.
        before: What version 0.1 did.
        test: Which test guards it.
        attack: Returns what is seen now.
    """

    number: str
    kind: str
    example: str
    before: str
    test: str
    attack: Callable | None


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str
    seconds: float


ROWS: list[Row] = []


def row(number, kind: str, example: str, before: str, test: str):
    """Add a row; the function below tries it."""

    def add(attack: Callable) -> Callable:
        ROWS.append(Row(str(number), kind, example, before, test, attack))
        return attack

    return add


class Lab:
    """A scratch folder with what attacks begin with."""

    def __init__(self, folder: Path):
        self.top = folder
        self.folder = folder

    def enter(self, number: str) -> None:
        self.folder = self.top / f"row{number}"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        os.chdir(self.folder)

    def made(self, name: str, make: Callable[[Path], object]) -> Path:
        """A copy of what `make` writes; it is made once."""
        original = self.top / "made" / name
        if not original.exists():
            original.parent.mkdir(exist_ok=True)
            half = original.with_name(f"half_{name}")
            shutil.rmtree(half, ignore_errors=True)
            make(half)
            half.rename(original)
        copy = self.folder / name
        if original.is_dir():
            shutil.copytree(original, copy, symlinks=True)
        else:
            shutil.copyfile(original, copy)
        return copy

    def exp(self, name: str = "asr", **conf) -> Path:
        """A random supernet that takes audio."""
        torch.manual_seed(0)
        return self.made(name, lambda path: experiment(path, conf or None))

    def zip(self) -> Path:
        """The size 5 of such a supernet, packed."""

        def make(path: Path) -> None:
            asr = self.exp()
            self.good("extract", "--asr_exp", asr, "--size", 5)
            self.good("pack", "--asr_exp", f"{asr}_size5")
            shutil.move(next(Path(f"{asr}_size5").glob("*.zip")), path)
            for folder in (asr, Path(f"{asr}_size5")):
                shutil.rmtree(folder)

        return self.made("size5.zip", make)

    def wav(self, name: str = "a.wav", seconds: float = 1.0, change=None) -> Path:
        dice = np.random.RandomState(0)
        samples = (dice.randn(int(16000 * seconds)) / 10).astype(np.float32)
        if change is not None:
            change(samples)
        soundfile.write(self.folder / name, samples, 16000, "FLOAT")
        return self.folder / name

    def arguments(self, exp: str, *options, **changes) -> list[str]:
        """Of a training of seconds."""
        data = self.top / "made" / "data"
        if not data.exists():
            write_data(data)
        return [
            *TRAIN,
            *train_arguments(data, self.folder / exp, map(str, options), **changes),
        ]

    def train(self, exp: str, *options, **changes) -> Ended:
        return self.run(*self.arguments(exp, *options, **changes))

    def trained(self, name: str = "t", *options, **changes) -> Path:
        """A finished training of two joint epochs."""

        def make(path: Path) -> None:
            words = self.arguments(name, "--max_epoch=4", *options, **changes)
            expect(self.run(*words).code == 0, f"{name} does not train")
            shutil.move(self.folder / name, path)

        return self.made(name, make)

    def run(self, *words, **options) -> Ended:
        return finish(self.start(*words, **options))

    def start(
        self,
        *words,
        cwd: Path | None = None,
        seconds: float = 120.0,
        gigabytes: float | None = None,
        stdin: int | None = None,
        tty: bool = False,
        before: Callable | None = None,
    ):
        """Start a command.

        Args:
            *words: Of `espnet-dynsize`.
            cwd: Where it runs.
            seconds: After so many it is killed.
            gigabytes: Memory that it may have beyond what ESPnet's imports take.
            stdin: File descriptor; None: nothing to read.
            tty: Standard input is a terminal on which nobody types.
            before: Called in the child first.
        """
        log = self.folder / f"log{time.monotonic_ns()}"
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            return pid, log, time.monotonic(), seconds
        code = 1
        try:
            os.setsid()
            for number, path in ((1, f"{log}.out"), (2, f"{log}.err")):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644), number)
            if tty:
                stdin = os.openpty()[1]
            os.dup2(os.open(os.devnull, os.O_RDONLY) if stdin is None else stdin, 0)
            sys.stdin = os.fdopen(0)
            logging.root.handlers.clear()  # the program has its own
            # A script in the background ignores it, and so would its children.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.chdir(cwd or self.folder)
            if gigabytes is not None:
                pages = int(Path("/proc/self/statm").read_text().split()[0])
                most = pages * resource.getpagesize() + int(gigabytes * 2**30)
                resource.setrlimit(resource.RLIMIT_AS, (most, most))
            if before is not None:
                before()
            try:
                code = command_line([str(word) for word in words])
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(bool(end.code))
                if isinstance(end.code, str):
                    print(end.code, file=sys.stderr)
            except BaseException:
                traceback.print_exc()
            atexit._run_exitfuncs()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code or 0)

    def good(self, *words, **options) -> Ended:
        """A command that has to succeed."""
        ended = self.run(*words, **options)
        expect(ended.code == 0, f"{words[0]}: code {ended.code}: {ended.err[-500:]}")
        return ended

    def refused(self, named: str, *words, **options) -> str:
        """The sentence with which a command ends."""
        return sentence(self.run(*words, **options), named)

    def no_training(self, named: str, *options, **changes) -> str:
        """The sentence with which a training ends before its first update."""
        shutil.rmtree(self.folder / "no", ignore_errors=True)
        ended = self.train("no", "--max_epoch=4", *options, **changes)
        expect("1epoch results" not in ended.err, "it trained first")
        return sentence(ended, named)


def finish(started) -> Ended:
    pid, log, start, seconds = started
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        if time.monotonic() - start > seconds:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise WrongError(f"not ended after {seconds} s")
        time.sleep(0.02)
    out, err = (
        Path(f"{log}.{end}").read_text(encoding="utf-8", errors="replace")
        for end in ("out", "err")
    )
    took = time.monotonic() - start
    return Ended(os.waitstatus_to_exitcode(status), out, err, took)


def sentence(ended: Ended, named: str) -> str:
    """The one sentence on stderr of a command that was refused."""
    text = ended.err + ended.out
    if "Traceback" in text:
        raise WrongError(f"traceback: {text.strip().splitlines()[-1][:200]}")
    expect(ended.code == 2, f"code {ended.code}: {text[-300:]}")
    expect("unsafe" not in text.lower(), "unsafe loading is advised")
    said = [
        line.partition("error: ")[2] if "error: " in line else line
        for line in ended.err.splitlines()
        if line.strip() and not re.match(r"\[|usage|\d{4}-|/", line.partition("/")[0])
    ]
    expect(said and named in said[-1], f"{named!r} is not in {said[-1:]}")
    return f"refused: {said[-1]}"


def expect(good: object, what: str) -> None:
    if not good:
        raise WrongError(what)


def content(folder: Path) -> dict[str, str]:
    """Every file below a folder with its hash, logs left out."""
    return {
        str(path.relative_to(folder)): digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("log")
    }


def states(path: Path) -> dict:
    """Tensors of a checkpoint as plain numbers, for comparison."""
    return flat(torch.load(path, weights_only=False))


def flat(value, name: str = "") -> dict:
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    else:
        tensor = isinstance(value, torch.Tensor)
        return {name: value.numpy().tobytes() if tensor else value}
    return {k: v for key, part in parts for k, v in flat(part, f"{name}/{key}").items()}


def edit(path: Path, **sections) -> None:
    """Change keys of a config; sections are merged."""
    config = yaml.safe_load(path.read_text())
    for key, value in sections.items():
        both = isinstance(config.get(key), dict) and isinstance(value, dict)
        config[key] = config[key] | value if both else value
    path.write_text(yaml.safe_dump(config))


def change(path: Path, edit_states: Callable[[dict], object]) -> None:
    """Change a checkpoint in place."""
    path = path.resolve()
    loaded = torch.load(path)
    changed = edit_states(loaded)
    torch.save(loaded if changed is None else changed, path)


def rezip(path: Path, name_end: str, new: bytes) -> None:
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in members.items():
            archive.writestr(name, new if name.endswith(name_end) else value)


def zip_config(path: Path, **sections) -> None:
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.endswith("config.yaml"))
        config = Path("config_of_zip.yaml")
        config.write_bytes(archive.read(name))
    edit(config, **sections)
    rezip(path, "config.yaml", config.read_bytes())


def fill(values: torch.Tensor, number: float) -> None:
    values.fill_(number)


class Bomb:
    """Unpickled, it leaves a folder."""

    def __reduce__(self):
        return (os.mkdir, ("ran",))


BOMB = (
    b"a0: &a0 [x]\n"
    + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
    ).encode()
)


# --- wrong results and lost files -----------------------------------------------------


@row(
    1,
    "lost data",
    "`extract --model_file` with an absolute path, or `../asr/x.pth`",
    "the small model replaced the supernet's average",
    "tests/bin/test_attacks.py::test_a_checkpoint_named_by_a_path",
)
def paths(lab: Lab):
    exp = lab.exp()
    before = content(exp)
    for number, name in enumerate((exp / MODEL, f"../asr/{MODEL}", f"asr/{MODEL}")):
        lab.good("extract", "--asr_exp", exp, "--model_file", name, "--size", 3)
        shutil.move("asr_size3", f"cut{number}")
        expect((lab.folder / f"cut{number}" / MODEL).is_file(), f"no model: {name}")
    changed = {k for k, v in content(exp).items() if before.get(k) not in (None, v)}
    expect(not changed, f"changed: {changed}")
    return "right: the average is unchanged, the size is in its folder"


@row(
    2,
    "lost data",
    "resume with other `sizes`",
    "refused, but config.yaml was already replaced",
    "tests/train/test_resume.py::"
    "test_another_run_is_refused_before_its_config_is_replaced",
)
def other_sizes(lab: Lab):
    exp = lab.trained()
    before = content(exp)
    said = sentence(lab.train("t", "--max_epoch=6", sizes=[4, 6, 8]), "another output")
    after = {k: v for k, v in content(exp).items() if k in before}
    expect(before == after, "files have changed")
    lab.good("extract", "--asr_exp", exp, "--size", "all")
    return said


@row(
    3,
    "wrong result",
    "`load(exp)`, then `activate(3)`, with an attention decoder (in version 0.1: one "
    "per size)",
    "decoded with the full size's decoder",
    "tests/train/test_decoder.py::test_a_search_that_was_built_before_decodes_as_the_size",
)
def decoders(lab: Lab):
    torch.manual_seed(0)
    attention = dict(
        model_conf=dict(ctc_weight=0.3, sizes=[3, 5, 8]),
        decoder="transformer",
        decoder_conf=dict(attention_heads=2, linear_units=8, num_blocks=1),
    )

    def make(path: Path) -> None:
        experiment(path, **attention)

    exp = lab.made("decoders", make)
    audio, _ = soundfile.read(lab.wav(), dtype="float32")
    options = dict(beam_size=2, ctc_weight=0.3, maxlenratio=-4.0)
    full = espnet_dynsize.load(exp, **options)
    for size in (3, 5):
        cut = espnet_dynsize.load(exp, size, **options)
        with _active(full, size):
            heard = full(audio)[0]
        expect(heard[0] == cut(audio)[0][0], f"size {size} hears something else")
        score = float(heard[3].score), float(cut(audio)[0][3].score)
        expect(abs(score[0] - score[1]) < 1e-3, f"size {size}: scores {score}")
    return "right: text and score of the cut model"


def _active(recogniser, size: int):
    model = recogniser.asr_model
    return model.encoder.activate(model.subnet(size))


@row(
    4,
    "wrong result",
    "family keys without `model: dynsize`",
    "trained a plain encoder in silence",
    "tests/core/test_keys.py::test_family_keys_need_the_model",
)
def no_model(lab: Lab):
    return [
        lab.no_training("model: dynsize", "--model=espnet"),
        lab.no_training("model_conf", "--encoder_conf", "sizes=[3,8]"),
    ]


@row(
    5,
    "wrong result",
    "`scheduler: reducelronplateau` on the criterion of the best model (R7)",
    "the search's epochs cut the learning rate to nothing",
    "tests/train/test_trainer.py::"
    "test_a_plateau_scheduler_sees_what_the_search_really_does",
)
def plateau(lab: Lab):
    options = ["--scheduler=reducelronplateau", "--scheduler_conf", "patience=0"]
    options += ["--optim_conf", "lr=0.001", "--max_epoch=6"]
    ended = lab.train("p", *options, selector_conf={"search_updates": 18})
    expect(ended.code == 0, ended.err[-300:])
    losses = [
        float(x) for x in re.findall(r"valid\] .*?search_loss=([\d.]+)", ended.err)
    ]
    rates = [float(x) for x in re.findall(r"optim0_lr0=([\d.e+-]+)", ended.err)]
    falls = all(a > b for a, b in zip(losses, losses[1:]))
    expect(losses and falls, f"the losses do not fall: {losses}")
    expect(min(rates) == 0.001, f"rates {rates}")
    return "right: the rate stays while the search's loss falls"


@row(
    6,
    "wrong result",
    "`patience` with another criterion than the best model's",
    "stopped in the first joint epoch",
    "tests/train/test_trainer.py::"
    "test_patience_with_another_criterion_than_the_best_model_s",
)
def patience(lab: Lab):
    options = ["--patience=3", "--best_model_criterion=valid,cer_ctc,min"]
    options += ["--optim_conf", "lr=0.0", "--max_epoch=12"]
    ended = lab.train("p", *options, selector_conf={"search_updates": 20})
    joint = len(re.findall(r"joint phase, size 8", ended.err))
    expect(ended.code == 0 and joint >= 4, f"{joint} joint epochs")
    return f"right: {joint} joint epochs"


@row(
    7,
    "wrong result",
    "resume with other `sizes` where no tensor names them; flops → params; "
    "uniform → first",
    "the config said the new family, masks were the old one's",
    "tests/core/test_checkpoint.py::test_another_model_does_not_fit",
)
def same_shapes(lab: Lab):
    budgets = dict(sizes=None, budgets={"flops": [0.5, 1]})
    rule = dict(selector="uniform", selector_conf={})
    said = []
    for name, old, new, key in (
        ("s", {}, {"sizes": [4, 6, 8]}, "sizes"),
        ("b", budgets, {"budgets": {"params": [0.5, 1]}}, "budgets"),
        ("u", rule, {"selector": "first"}, "selector"),
    ):
        expect(
            lab.train(name, "--max_epoch=3", **old).code == 0, f"{name}: no training"
        )
        said.append(sentence(lab.train(name, "--max_epoch=4", **{**old, **new}), key))
    # A config edited by hand
    edit(lab.folder / "s/config.yaml", model_conf={"sizes": [4, 6, 8]})
    said.append(lab.refused("sizes", "extract", "--asr_exp", "s", "--size", 4))
    return said


@row(
    8,
    "wrong result",
    "killed in the search, resumed with fewer epochs than the search has (R16)",
    "ended in the search with code 0, no model",
    "tests/train/test_resume.py::test_a_resumed_run_that_ends_in_the_search",
)
def fewer_epochs(lab: Lab):
    options = dict(selector_conf={"search_fraction": 0.5})
    kill_at(lab, "k", 8, "--max_epoch=12", **options)
    return sentence(lab.train("k", "--max_epoch=4", **options), "max_epoch=4")


def kill_at(
    lab: Lab, exp: str, update: int, *options, number=signal.SIGKILL, **changes
):
    """Start a training that is killed in an update."""

    def arm() -> None:
        from espnet_dynsize.train.model import DynSizeASRModel

        forward = DynSizeASRModel.forward

        def limited(model, *args, **kwargs):
            if model.training and model.schedule.now > update:
                os.kill(os.getpid(), number)
                time.sleep(1)
            return forward(model, *args, **kwargs)

        DynSizeASRModel.forward = limited

    return finish(lab.start(*lab.arguments(exp, *options, **changes), before=arm))


@row(
    9,
    "wrong result",
    "two threads, each with another `activate` on one model",
    "most outputs were the other size's",
    "tests/encoder/test_layers.py::test_each_thread_has_its_own_subnet",
)
def threads(lab: Lab):
    from concurrent.futures import ThreadPoolExecutor

    recogniser = espnet_dynsize.load(lab.exp())
    model = recogniser.asr_model
    audio = torch.randn(1, 8000), torch.tensor([8000])

    @torch.no_grad()
    def encoded(size: int) -> torch.Tensor:
        with _active(recogniser, size):
            return model.encode(*audio)[0]

    expected = {size: encoded(size) for size in (3, 8)}
    sizes = [3, 8] * 40
    with ThreadPoolExecutor(2) as pool:
        wrong = sum(
            not torch.equal(out, expected[size])
            for size, out in zip(sizes, pool.map(encoded, sizes))
        )
    expect(not wrong, f"{wrong} of 80 outputs are wrong")
    return "right: 80 of 80 outputs"


@row(
    10,
    "wrong result",
    "a wav with one NaN or infinite sample",
    "a text was printed",
    "tests/bin/test_transcribe.py::test_a_bad_file_does_not_stop_the_others",
)
def nan_audio(lab: Lab):
    said = []
    for value in (np.nan, np.inf, -np.inf, 1e30):

        def spoil(samples, value=value):
            samples[777] = value

        path = lab.wav("nan.wav", change=spoil)
        said.append(lab.refused("777", "transcribe", lab.zip(), path))
    return said


@row(
    11,
    "wrong result",
    "two decodings of one test set (R12); an utterance twice in hyp.trn",
    "the last one counted, and did not say which",
    "tests/bin/test_report.py::test_two_decodings_of_one_test_set",
)
def decodings(lab: Lab):
    exp = lab.exp()
    write_score(exp / "decode_a/test", {"s-1": "A B"}, {"s-1": "A B"})
    write_score(exp / "decode_b/test", {"s-1": "A B"}, {"s-1": ""})
    out = lab.good("report", exp).out
    expect("WER decode_a/test" in out and "WER decode_b/test" in out, out[:300])
    hyp = exp / "decode_a/test/score_wer/hyp.trn"
    hyp.write_text(hyp.read_text() + "B (s-1)\n")
    return ["right: a column for each", lab.refused("s-1", "report", exp)]


@row(
    12,
    "lost data",
    "`prepare` where `data/train/{text,segments}` are the user's",
    "text replaced, segments deleted",
    "tests/corpora/test_small_corpora.py::test_a_user_s_data_directory_is_left_alone",
)
def user_data(lab: Lab):
    corpus = an4(lab)
    said = []
    for name in ("text", "segments"):
        folder = lab.folder / f"data_{name}" / "train"
        folder.mkdir(parents=True)
        (folder / name).write_text("mine")
        words = ("prepare", "an4", "--corpus_dir", corpus, "--data", folder.parent)
        said.append(lab.refused(str(folder / name), *words))
        expect((folder / name).read_text() == "mine", "it was replaced")
    return said


def an4(lab: Lab, count: int = 104) -> Path:
    """A corpus in AN4's layout, of noise."""
    corpus = lab.folder / "an4"
    (corpus / "etc").mkdir(parents=True)
    for split, number in (("train", count), ("test", 3)):
        names = [f"an{i}-f{i % 5}-b" for i in range(number)]
        lines = [f"<s> GO ON </s> ({name})" for name in names]
        (corpus / f"etc/an4_{split}.transcription").write_text("\n".join(lines))
        (corpus / f"etc/an4_{split}.fileids").write_text("\n".join(names))
        (corpus / "wav").mkdir(exist_ok=True)
        for name in names:
            soundfile.write(corpus / f"wav/{name}.wav", np.full(160, 0.1), 16000)
    return corpus


@row(
    13,
    "not bit-identical",
    "`accum_grad 3` with 4 batches an epoch, SIGKILL, resume",
    "other weights than the run left alone",
    "tests/train/test_trainer.py::test_updates_of_an_epoch_that_accum_grad_does_not_divide",
)
def accumulation(lab: Lab):
    options = ["--accum_grad=3", "--max_epoch=5"]
    conf = dict(selector_conf={"search_updates": 2})
    expect(lab.train("alone", *options, **conf).code == 0, "no training")
    kill_at(lab, "killed", 3, *options, **conf)
    expect(lab.train("killed", *options, **conf).code == 0, "no resume")
    one, two = (states(lab.folder / e / "checkpoint.pth") for e in ("alone", "killed"))
    times = ("time", "total_count")
    differ = [k for k in one if one[k] != two.get(k) and k.split("/")[-1] not in times]
    differ = [k for k in differ if "time" not in k and "max_cuda" not in k]
    expect(not differ, f"{len(differ)} differ: {differ[:4]}")
    return "right: bit-identical"


@row(
    14,
    "wrong result",
    "`demo --exp E` again with another `--config` or corpus",
    "the old family's table as if it were the new one's",
    "tests/bin/test_attacks.py::test_a_demo_s_folder_is_of_one_run",
)
def demos(lab: Lab):
    exp = lab.folder / "E"
    exp.mkdir()
    (exp / "asr_dynsize").mkdir()
    other = lab.folder / "other.yaml"
    other.write_text("encoder: dynsize_conformer\nmodel_conf: {sizes: [2, 12, 24]}\n")
    first = lab.refused("demo.yaml", "demo", "--exp", exp)
    shutil.rmtree(exp / "asr_dynsize")
    corpus = an4(lab)
    record = dict(corpus="digits", corpus_dir=None, config={}, arguments=[])
    (exp / "demo.yaml").write_text(yaml.safe_dump(record))
    words = ("demo", "--exp", exp)
    return [
        first,
        lab.refused("another config", *words, "--config", other),
        lab.refused(
            "another corpus", *words, "--corpus", "an4", "--corpus_dir", corpus
        ),
    ]


@row(
    15,
    "wrong result",
    "`pack --family` where exp/asr_size3/ is the user's; `pack` of random bytes",
    "packed, code 0",
    "tests/bin/test_fuzz_files.py::test_origin",
)
def foreign(lab: Lab):
    exp = lab.exp()
    (lab.folder / "asr_size3").mkdir()
    (lab.folder / "asr_size3" / MODEL).write_text("twenty bytes of text")
    said = [lab.refused("asr_size3", "pack", "--asr_exp", exp, "--family")]
    for value in (b"twenty bytes of text", pickle.dumps(Bomb())):
        (exp / AVERAGED).write_bytes(value)
        said.append(lab.refused(MODEL, "pack", "--asr_exp", exp))
    expect(
        not list(exp.glob("*.zip")) and not Path("ran").exists(), "something is there"
    )
    return said


@row(
    16,
    "wrong result",
    "`--init_param` of a supernet from its joint phase",
    "no search: counter and masks came along",
    "tests/train/test_trainer.py::test_a_supernet_s_weights_start_another_run",
)
def init_param(lab: Lab):
    old = lab.trained()
    for options in ([], ["--ignore_init_mismatch=true"]):
        exp = f"new{len(options)}"
        words = ["--max_epoch=3", f"--init_param={old / VALID}", *options]
        sizes = [4, 6, 8] if options else [3, 5, 8]
        ended = lab.train(exp, *words, sizes=sizes)
        expect(ended.code == 0, ended.err[-300:])
        updates = states(lab.folder / exp / "checkpoint.pth")["/model/schedule.update"]
        expect(np.frombuffer(updates, "f4")[0] == 12, "the counter came along")
        expect("search phase" in ended.err, "no search")
    return "right: weights only, the search begins anew"


@row(
    17,
    "wrong result",
    "`skip_empty_blocks: 'false'` and other words for booleans",
    "taken as true",
    "tests/train/test_fuzz_options.py::test_what_is_not_allowed_is_named",
)
def words_for_booleans(lab: Lab):
    return [
        lab.no_training(key, **{key: value})
        for key, value in (
            ("skip_empty_blocks", "no"),
            ("convolution_first", "false"),
            ("skip_empty_blocks", "false"),
            ("skip_empty_blocks", 0),
        )
    ]


@row(
    18,
    "wrong result",
    "two trainings in one folder at the same time",
    "a mixture of both, code 0",
    "tests/train/test_refused.py::test_one_training_a_folder",
)
def two_trainings(lab: Lab):
    first = lab.start(*lab.arguments("two", "--max_epoch=6", "--seed=9"))
    while not (lab.folder / "two/.lock").exists():
        time.sleep(0.02)
    said = sentence(lab.train("two", "--max_epoch=6"), "in use")
    expect(finish(first).code == 0, "the first one failed")
    return said


@row(
    19,
    "wrong result",
    "SIGTERM to `demo` while it trains",
    "the training lived on; the next one wrote the same folder",
    "tests/core/test_process.py::test_nothing_lives_on_after_a_signal",
)
def sigterm(lab: Lab):
    said = []
    for number in (signal.SIGTERM, signal.SIGINT):
        started = lab.start("demo", "--exp", lab.folder / f"E{number}", seconds=180)
        marker = str(lab.folder / f"E{number}")
        while not (Path(marker) / "asr_dynsize/train.log").exists():
            time.sleep(0.05)
            expect(time.monotonic() - started[2] < 150, "it does not train")
        expect(children(marker, started[0]), "no child is there")
        os.kill(started[0], number)
        code = finish(started).code
        time.sleep(0.3)
        left = children(marker, 0)
        expect(not left, f"lives on: {left}")
        said.append(f"code {code}")
    return f"right: nothing lives on ({', '.join(said)} after SIGTERM, SIGINT)"


def children(marker: str, parent: int) -> list[int]:
    """Programs of other processes than `parent` that name a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if marker in command and int(entry.parent.name) not in (parent, os.getpid()):
            found.append(int(entry.parent.name))
    return found


@row(
    20,
    "wrong result",
    "`prepare an4` with 60 utterances, a wav of 0 samples, utterances twice, an "
    "empty transcript",
    "accepted; train: 0 utterances",
    "tests/corpora/test_small_corpora.py::test_broken_an4",
)
def broken_corpus(lab: Lab):
    said = []
    for what in ("few", "empty", "twice", "silent"):
        corpus = an4(lab, 60 if what == "few" else 104)
        path = corpus / "etc/an4_train.transcription"
        lines = path.read_text().splitlines()
        if what == "empty":
            soundfile.write(corpus / "wav/an7-f2-b.wav", np.zeros(0), 16000)
        if what == "twice":
            lines.append(lines[3])
        if what == "silent":
            lines[3] = lines[3].replace("GO ON", "")
        path.write_text("\n".join(lines))
        named = "an7-f2-b" if what == "empty" else "an4_train.transcription"
        said.append(lab.refused(named, "prepare", "an4", "--corpus_dir", corpus))
        expect(not (lab.folder / "data").exists(), "data are written")
        shutil.rmtree(corpus)
    return said


@row(
    21,
    "wrong result",
    "masks of 0, 1 or 0.4; NaN or complex weights; convert with variance −1",
    "cut and written, code 0",
    "tests/core/test_checkpoint.py::test_states_that_do_not_fit",
)
def weights(lab: Lab):
    masks = "schedule.selection.fixed_masks"
    changes = [lambda s, v=v: fill(s[masks], v) for v in (0.0, 1.0, 0.4)]
    name = "ctc.ctc_lo.weight"
    changes.append(lambda s: fill(s[name].view(-1)[0], np.nan))
    changes.append(lambda s: s.update({name: s[name].to(torch.complex64)}))
    changes.append(lambda s: s[masks].__setitem__(0, s[masks][0].flip(0)))
    said = []
    for spoil in changes:
        exp = lab.exp()
        change(exp / AVERAGED, spoil)
        named = masks if "masks" in spoil.__code__.co_freevars else "does not fit"
        said.append(lab.refused(named, "extract", "--asr_exp", exp, "--size", "all"))
        shutil.rmtree(exp)
    norm = "encoder.encoders.0.conv_module.norm."
    values = dict(running_mean=0.0, running_var=-1.0, weight=1.0, bias=0.0)
    torch.save({norm + k: torch.full((4,), v) for k, v in values.items()}, "bn.pth")
    words = ("convert", "--model_file", "bn.pth", "--output", "new.pth")
    return [*said, lab.refused("bn.pth", *words)]


@row(
    22,
    "wrong result",
    "`.inf` for subnet_weight, distill_weight, score_lr, noise, sparsity_weight",
    "accepted; every update skipped, or scores of ±inf",
    "tests/train/test_fuzz_options.py::test_what_is_not_allowed_is_named",
)
def infinite(lab: Lab):
    inf = float("inf")
    conf = [
        {"subnet_weight": inf},
        {"distill_weight": inf},
        {"selector_conf": {"score_lr": inf}},
        {"selector": "ortho_softmax", "selector_conf": {"noise": inf}},
        {"selector": "iterative_zero_out", "selector_conf": {"sparsity_weight": inf}},
        {"subnet_weight": 1e300},
        {"layer_drop_joint": -inf},
    ]
    return [lab.no_training("inf" if inf in c.values() else "", **c) for c in conf]


@row(
    23,
    "wrong result",
    "`sizes: [true, 5, 8]`, both search lengths, `search_updates: 2.5`, "
    "`keep_layers: []`, a criterion that does not exist, `activate(None)`",
    "accepted or ignored",
    "tests/train/test_fuzz_options.py::test_what_is_not_allowed_is_named",
)
def ignored(lab: Lab):
    both = {"search_fraction": 0.5, "search_updates": 6}
    model = espnet_dynsize.load(lab.exp()).asr_model
    try:
        model.encoder.activate(None)
    except (TypeError, ValueError) as error:
        last = f"refused: {error}"
    else:
        raise WrongError("activate(None) is taken")
    return [
        lab.no_training("sizes", sizes=[True, 5, 8]),
        lab.no_training("ffn_chunks", ffn_chunks=3),
        lab.no_training("budgets", granularity="component"),
        lab.no_training("search_fraction", selector_conf=both),
        lab.no_training("search_updates", selector_conf={"search_updates": 2.5}),
        lab.no_training("keep_layers", keep_layers=[]),
        lab.no_training("nosuch", "--best_model_criterion=valid,nosuch,min"),
        lab.no_training("nosuch", "--best_model_criterion=train,nosuch,min"),
        last,
    ]


@row(
    24,
    "overwrites",
    "report/report.md, the zip or config_size3.yaml are the user's",
    "overwritten unasked",
    "tests/core/test_files.py::test_what_a_user_wrote_or_changed_is_not",
)
def overwriting(lab: Lab):
    exp = lab.exp()
    said = []
    for path, words in (
        (lab.folder / "report/report.md", ("report", exp)),
        (exp / "config_size3.yaml", ("extract", "--asr_exp", exp, "--size", "all")),
        (exp / "asr_valid.cer_ctc.ave.zip", ("pack", "--asr_exp", exp)),
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
        said.append(lab.refused(path.name, *words))
        expect(path.read_text() == "mine", f"{path} was replaced")
    expect(not Path("asr_size3").exists(), "a size was written all the same")
    return said


# --- strangers' files -----------------------------------------------------------------


def hostile(folder: Path) -> None:
    """A model whose config names a module of its own."""
    edit(folder / "config.yaml", model_conf={"selector": f"{folder.name}.evil.Sel"})
    (folder / "evil.py").write_text("import os\nos.mkdir('ran')\n")


@row(
    25,
    "foreign code",
    "a downloaded folder whose config has `selector: folder.evil.Sel`",
    "evil.py ran",
    "tests/deploy/test_cut.py::test_opening_a_model_imports_nothing",
)
def own_module(lab: Lab):
    exp = lab.exp("hostile")
    hostile(exp)
    wav = lab.wav()
    (lab.folder / "w.scp").write_text(f"u {wav}\n")
    script = lab.folder / "s.py"
    script.write_text("import espnet_dynsize\nespnet_dynsize.load('hostile')\n")
    lab.run("run", script)
    decode = [
        "--asr_train_config",
        exp / "config.yaml",
        "--asr_model_file",
        exp / MODEL,
    ]
    decode += ["--data_path_and_name_and_type", "w.scp,speech,sound", "--ngpu", "0"]
    decode += ["--output_dir", "decoded", "--ctc_weight", "1.0", "--beam_size", "1"]
    lab.run("run", "-m", "espnet2.bin.asr_inference", *decode)
    for words in (
        ("transcribe", exp, wav),
        ("transcribe", exp, wav, "--size", 3),
        ("extract", "--asr_exp", exp, "--size", 3),
        ("report", exp),
        ("pack", "--asr_exp", exp),
    ):
        lab.run(*words)
    expect(not list(lab.folder.rglob("ran")), "evil.py ran")
    return "right: nothing is imported; masks are in the checkpoint"


@row(
    26,
    "foreign code",
    "a zip with `selector: antigravity.X`",
    "any installed module was imported",
    "tests/control/selectors/test_own_selector.py::"
    "test_a_model_that_is_opened_imports_nothing",
)
def installed_module(lab: Lab):
    exp, wav = lab.exp(), lab.wav()
    lab.good("pack", "--asr_exp", exp)
    path = next(exp.glob("*.zip"))
    zip_config(path, model_conf={"selector": "this.X"})
    for size in ([], ["--size", 3]):
        ended = lab.run("transcribe", path, wav, *size)
        expect("Beautiful is better" not in ended.out, "a module was imported")
        expect("Traceback" not in ended.err, ended.err[-200:])
    return f"right: not imported (code {ended.code})"


@row(
    27,
    "hang",
    "config.yaml with nine levels of yaml aliases",
    "hung",
    "tests/bin/test_fuzz_files.py::test_config",
)
def aliases(lab: Lab):
    exp, path, wav = lab.exp(), lab.zip(), lab.wav()
    (exp / "config.yaml").write_bytes(BOMB)
    rezip(path, "config.yaml", BOMB)
    limits = dict(seconds=20, gigabytes=1)
    new = lab.folder / "training.yaml"
    new.write_bytes(BOMB)
    return [
        lab.refused("values", "transcribe", exp, wav, **limits),
        lab.refused("values", "extract", "--asr_exp", exp, "--size", 3, **limits),
        lab.refused("values", "report", exp, **limits),
        lab.refused("values", "transcribe", path, wav, **limits),
        lab.refused("values", *TRAIN, "--config", new, **limits),
    ]


@row(
    28,
    "unbounded",
    "a small zip that unpacks to gigabytes; `num_blocks: 100000000`",
    "3 GB written, hung",
    "tests/bin/test_fuzz_files.py::test_zip",
)
def sizes(lab: Lab):
    path, wav = lab.zip(), lab.wav()
    rezip(path, ".pth", b"\0" * 400_000_000)
    limits = dict(seconds=20, gigabytes=1.5)
    said = [lab.refused("unpacks", "transcribe", path, wav, **limits)]
    for section, key in (
        ("encoder_conf", "num_blocks"),
        ("encoder_conf", "output_size"),
        ("frontend_conf", "n_fft"),
        ("frontend_conf", "n_mels"),
    ):
        path.unlink()
        path = lab.zip()
        zip_config(path, **{section: {key: 10**8}})
        said.append(lab.refused(key, "transcribe", path, wav, **limits))
    return said


@row(
    29,
    "leaks files",
    "config.yaml with `bpemodel: /etc/hostname`; images → /etc/ssl; `pack`",
    "packed",
    "tests/bin/test_fuzz_files.py::test_a_file_from_elsewhere_is_not_packed",
)
def leaks(lab: Lab):
    said = []
    for key in ("bpemodel", "non_linguistic_symbols"):
        exp = lab.exp()
        edit(exp / "config.yaml", **{key: "/etc/hostname"})
        said.append(lab.refused("/etc/hostname", "pack", "--asr_exp", exp))
        shutil.rmtree(exp)
    for link in ("images", "RESULTS.md", "images/deep"):
        exp = lab.exp()
        (exp / link).parent.mkdir(exist_ok=True)
        (exp / link).symlink_to("/etc/ssl" if "images" in link else "/etc/hostname")
        said.append(lab.refused("outside", "pack", "--asr_exp", exp))
        shutil.rmtree(exp)
    return said


# --- kills and resuming ---------------------------------------------------------------


def kill_in_save(lab: Lab, exp: str, name: str, number: int, *options, **changes):
    """Start a training that is killed while it writes a file."""

    def arm() -> None:
        save = torch.save

        def cut(value, path, *args, **kwargs):
            if not str(path).endswith(name):
                return save(value, path, *args, **kwargs)
            Path(path).write_bytes(b"PK\x03\x04" + b"\0" * 5000)
            os.kill(os.getpid(), number)
            time.sleep(1)

        torch.save = cut

    return finish(lab.start(*lab.arguments(exp, *options, **changes), before=arm))


@row(
    30,
    "no resume",
    "SIGKILL, SIGTERM or Ctrl-C while the first checkpoint.pth is written",
    "refused until the file was removed by hand",
    "tests/train/test_resume.py::test_a_kill_in_the_first_checkpoint_s_writing",
)
def first_checkpoint(lab: Lab):
    alone = lab.trained("alone")
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        exp = f"first{number}"
        kill_in_save(lab, exp, "checkpoint.pth", number, "--max_epoch=4")
        expect(lab.train(exp, "--max_epoch=4").code == 0, f"no resume after {number}")
        one, two = (states(e / VALID) for e in (alone, lab.folder / exp))
        expect(one == two, f"other weights after {number}")
    return "right: goes on, same weights"


@row(
    31,
    "hang",
    "checkpoint.pth cut by a kill, resumed in a terminal; cut files elsewhere",
    "ESPnet asks at the terminal and waits",
    "tests/train/test_resume.py::"
    "test_a_kill_while_the_checkpoint_is_written_loses_one_epoch",
)
def terminal(lab: Lab):
    alone, exp = (
        lab.trained(
            "alone",
        ),
        lab.folder / "cut",
    )
    expect(lab.train("cut", "--max_epoch=3").code == 0, "no training")
    path = exp / "checkpoint.pth"
    path.write_bytes(path.read_bytes()[:3000])
    words = lab.arguments("cut", "--max_epoch=4")
    expect(lab.run(*words, tty=True, seconds=60).code == 0, "no resume")
    expect(states(alone / VALID) == states(exp / VALID), "other weights")
    model = lab.exp()
    cut = model / AVERAGED
    cut.write_bytes(cut.read_bytes()[:3000])
    options = dict(tty=True, seconds=30)
    words = ("extract", "--asr_exp", model, "--size", 3)
    return ["right: goes on from the one before", lab.refused(MODEL, *words, **options)]


@row(
    32,
    "no resume",
    "SIGKILL of `demo` when its token list appears",
    "the list was empty for good",
    "tests/bin/test_attacks.py::test_an_empty_token_list_is_not_left",
)
def token_list(lab: Lab):
    exp = lab.folder / "E"
    words = ("demo", "--exp", exp)
    pid, *rest = lab.start(*words, seconds=180)
    while not (names := list(exp.glob("*token_list*"))):
        time.sleep(0.005)
        expect(time.monotonic() - rest[1] < 150, "no token list")
    os.killpg(pid, signal.SIGKILL)
    for child in children(str(exp), pid):
        os.kill(child, signal.SIGKILL)
    finish((pid, *rest))
    first = [path.name for path in names]
    pid, *rest = lab.start(*words, seconds=180)
    while not (exp / "collect_stats.log").exists():
        time.sleep(0.05)
        expect(time.monotonic() - rest[1] < 150, "no statistics are collected")
    os.kill(pid, signal.SIGTERM)
    finish((pid, *rest))
    tokens = (exp / "token_list_word.txt").read_text().splitlines()
    expect("<unk>" in tokens, "the list has no <unk>")
    return f"right: killed at {first[0]}, the next run makes the list"


@row(
    33,
    "traceback",
    "a full disk during the checkpoint, extract, pack, convert",
    "traceback; .unfinished and empty files were left",
    "tests/core/test_files.py::test_an_error_leaves_the_old_content_and_no_rest",
)
def full_disk(lab: Lab):
    # A limit on the size of a file fails in the same place, with another number.
    def small() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))

    exp = lab.exp()
    norm = "encoder.encoders.0.conv_module.norm."
    ones = {norm + k: torch.ones(9000) for k in ("running_mean", "running_var")}
    ones |= {norm + k: torch.ones(9000) for k in ("weight", "bias")}
    torch.save(ones, "bn.pth")
    before = content(lab.folder)
    convert = ("convert", "--model_file", "bn.pth", "--output", "new.pth")
    said = [
        lab.refused("", "extract", "--asr_exp", exp, "--size", 3, before=small),
        lab.refused("", "pack", "--asr_exp", exp, before=small),
        lab.refused("", *convert, before=small),
        lab.refused("", "report", exp, before=small),
    ]
    left = content(lab.folder).keys() - before.keys()
    left = [k for k in left if "config_size3" not in k and "written_by" not in k]
    expect(not [k for k in left if "report" not in k], f"left: {left}")
    return said


@row(
    34,
    "traceback",
    "resume with checkpoints that are no dict, without `model`, of another optimiser, "
    "a folder",
    "KeyError, ValueError, IsADirectoryError",
    "tests/train/test_attacks.py::test_checkpoints_that_do_not_go_on",
)
def resume_garbage(lab: Lab):
    exp = lab.trained()
    said = []
    for value in ([1], {"a": 1}, {"model": 5}, "x"):
        for name in ("checkpoint.pth", "checkpoint.previous.pth"):
            torch.save(value, exp / name)
        said.append(sentence(lab.train("t", "--max_epoch=6"), "checkpoint.pth"))
    (exp / "checkpoint.pth").unlink()
    (exp / "checkpoint.pth").mkdir()
    said.append(sentence(lab.train("t", "--max_epoch=6"), "checkpoint.pth"))
    exp = lab.made("t2", lambda path: shutil.copytree(lab.top / "made/t", path))
    for options in (["--optim=sgd"], ["--scheduler=warmuplr"]):
        said.append(sentence(lab.train("t2", "--max_epoch=6", *options), "other"))
    return said


# --- found before training ------------------------------------------------------------


@row(
    35,
    "late",
    "`best_model_criterion: [[valid, loss, mean]]`",
    "ValueError after the search",
    "tests/train/test_refused.py::test_refused_before_training",
)
def criteria(lab: Lab):
    key = "--best_model_criterion"
    said = [lab.no_training("mean", f"{key}=valid,loss,mean")]
    for value in (
        [["valid", "loss"]],
        [[1, 2, 3]],
        ["valid"],
        [["valid", None, "min"]],
    ):
        config = lab.folder / "c.yaml"
        config.write_text(yaml.safe_dump({"best_model_criterion": value}))
        words = lab.arguments("no", "--max_epoch=2")
        base = yaml.safe_load((lab.folder / "no.yaml").read_text())
        config.write_text(yaml.safe_dump(base | {"best_model_criterion": value}))
        words = [w for w in words if not w.startswith((key, "--config"))]
        words.append(f"--config={config}")
        said.append(sentence(lab.run(*words), "best_model_criterion"))
    return said


@row(
    36,
    "late",
    "`subnet: 5` in a training config",
    "refused in the first update, with a wrong reason",
    "tests/train/test_refused.py::test_refused_before_training",
)
def subnet(lab: Lab):
    return lab.no_training("subnet=5", subnet=5)


@row(
    37,
    "late",
    "`k_step: 1.5`; `first_iteration: .inf`; `--freeze_param encoder ctc`",
    "TypeError, ZeroDivisionError in the first update",
    "tests/train/test_fuzz_options.py::test_what_is_not_allowed_is_named",
)
def first_update(lab: Lab):
    zero = dict(selector="iterative_zero_out")
    inf = {"first_iteration": float("inf")}
    return [
        lab.no_training("k_step", selector_conf={"k_step": 1.5}),
        lab.no_training("first_iteration", selector_conf=inf, **zero),
        lab.no_training("freeze_param", "--freeze_param", "encoder", "ctc"),
    ]


# --- one sentence ---------------------------------------------------------------------


@row(
    38,
    "traceback",
    "`sizes: 8`, `budgets: {flops: 0.7}`, `{flops: null}`, `budgets: 0.7`",
    "TypeError",
    "tests/train/test_fuzz_options.py::test_what_is_not_allowed_is_named",
)
def families(lab: Lab):
    said = [lab.no_training("sizes", sizes=value) for value in (8, True, "4 8")]
    for value in ({"flops": 0.7}, {"flops": None}, 0.7, {}):
        said.append(lab.no_training("budgets", sizes=None, budgets=value))
    return said


@row(
    39,
    "traceback",
    "a string, null or list where a number or a name belongs",
    "TypeError without the key's name",
    "tests/train/test_fuzz_options.py::test_what_is_not_allowed_is_named",
)
def kinds(lab: Lab):
    said = [
        lab.no_training(key, **{key: value})
        for key, value in (
            ("keep_layers", 3),
            ("conv_norm", ["x"]),
            ("ffn_chunks", "x"),
            ("subnet_weight", "x"),
            ("distill_weight", []),
            ("sandwich", ["x"]),
            ("layer_drop_joint", "x"),
            ("selector_conf", [1]),
        )
    ]
    for key, value in (("search_updates", "6"), ("k_step", "1"), ("score_lr", [1])):
        said.append(lab.no_training(key, selector_conf={key: value}))
    return said


@row(
    40,
    "traceback",
    "unknown keys of encoder_conf and model_conf, unknown input_layer",
    "TypeError with Python's words",
    "tests/train/test_fuzz_options.py::test_unknown_keys",
)
def unknown(lab: Lab):
    return [
        lab.no_training("siezs", siezs=[1]),
        lab.no_training("encoder_conf", "--encoder_conf", "size=8"),
        lab.no_training("model_conf", "--model_conf", "sizess=8"),
        lab.no_training("input_layer", input_layer="conv2d77"),
        lab.no_training(
            "dynsize_transformer",
            "--encoder=dynsize_transformer",
            convolution_first=True,
        ),
    ]


@row(
    41,
    "traceback",
    "an empty, cut or garbage checkpoint, given to any command",
    "EOFError, or the advice to load unsafely",
    "tests/bin/test_fuzz_files.py::test_checkpoint",
)
def checkpoints(lab: Lab):
    said, wav = [], lab.wav()
    for kind in ("empty", "garbage", "cut"):
        exp = lab.exp()
        path = exp / AVERAGED
        values = dict(
            empty=b"", garbage=b"\x80\x02garbage", cut=path.read_bytes()[:999]
        )
        path.write_bytes(values[kind])
        for words in (
            ("extract", "--asr_exp", exp, "--size", 3),
            ("report", exp),
            ("transcribe", exp, wav),
            ("pack", "--asr_exp", exp),
            ("convert", "--model_file", path, "--output", "new.pth"),
        ):
            said.append(lab.refused(".pth", *words))
        shutil.rmtree(exp)
    return said


@row(
    42,
    "traceback",
    "config.yaml empty, a list, a string, binary, broken, without sections",
    "traceback",
    "tests/bin/test_fuzz_files.py::test_config",
)
def configs(lab: Lab):
    said, wav = [], lab.wav()
    for text in (b"", b"[1]", b"x", b"\xff\x00", b"a: [", b"encoder_conf: null\n"):
        exp, path = lab.exp(), lab.zip()
        (exp / "config.yaml").write_bytes(text)
        rezip(path, "config.yaml", text)
        said.append(lab.refused("config.yaml", "transcribe", exp, wav))
        said.append(lab.refused(path.name, "transcribe", path, wav))
        path.unlink()
        shutil.rmtree(exp)
    return said


@row(
    43,
    "traceback",
    "a checkpoint that is a list, a tensor, None, has int keys, a str, sparse weights",
    "traceback",
    "tests/core/test_checkpoint.py::test_what_is_no_state_dict",
)
def no_states(lab: Lab):
    said = []
    sparse = torch.ones(3).to_sparse()
    for value in ([1], torch.ones(3), None, {"state_dict": 5}, {3: 1}, {"a": sparse}):
        exp = lab.exp()
        torch.save(value, exp / AVERAGED)
        said.append(lab.refused(MODEL, "extract", "--asr_exp", exp, "--size", 3))
        words = ("convert", "--model_file", exp / AVERAGED, "--output", "new.pth")
        said.append(lab.refused("ave", *words))
        shutil.rmtree(exp)
    return said


@row(
    44,
    "traceback",
    "`cd` elsewhere, then extract or report a model with a relative stats_file",
    "FileNotFoundError",
    "tests/bin/test_fuzz_files.py::test_commands_work_from_any_directory",
)
def elsewhere(lab: Lab):
    (lab.folder / "stats").mkdir()
    np.savez("stats/s.npz", count=10, sum=np.zeros(20), sum_square=np.full(20, 1e2))
    (lab.folder / "exp").mkdir()
    conf = dict(normalize="global_mvn", normalize_conf=dict(stats_file="stats/s.npz"))
    exp, _ = experiment(lab.folder / "exp/asr", **conf)
    for place in (Path("/"), exp, exp.parent):
        lab.good("extract", "--asr_exp", exp, "--size", 3, cwd=place)
        lab.good("report", exp, f"{exp}_size3", cwd=place)
        lab.good("transcribe", exp, lab.wav(), "--size", 5, cwd=place)
        shutil.rmtree(f"{exp}_size3")
    return "right from /, from the folder itself and above it"


@row(
    45,
    "traceback",
    "`pack --model_file` with an absolute path; `extract --model_file sub/x.pth`",
    "SameFileError",
    "tests/bin/test_attacks.py::test_a_checkpoint_named_by_a_path",
)
def pack_paths(lab: Lab):
    exp = lab.exp()
    lab.good("pack", "--asr_exp", exp, "--model_file", exp / MODEL)
    (exp / "sub").mkdir()
    shutil.copy(exp / MODEL, exp / "sub/x.pth")
    words = ("--asr_exp", exp, "--model_file", "sub/x.pth")
    return [
        "right: packed",
        lab.refused("sub/x.pth", "pack", *words),
        lab.refused("sub/x.pth", "extract", *words, "--size", 3),
    ]


@row(
    46,
    "traceback",
    "`pack --family` of an extracted size; origin.yaml without keys",
    "KeyError",
    "tests/bin/test_fuzz_files.py::test_origin",
)
def origins(lab: Lab):
    exp = lab.exp()
    lab.good("extract", "--asr_exp", exp, "--size", 5)
    said = [lab.refused("", "pack", "--asr_exp", f"{exp}_size5", "--family")]
    for text in ("[1]", "size: 5", "sha256: 5\nsize: 5\n", "size: [1]"):
        Path(f"{exp}_size5/origin.yaml").write_text(text)
        said.append(lab.refused("origin.yaml", "pack", "--asr_exp", exp, "--family"))
    return said


@row(
    47,
    "traceback",
    "audio of 1 sample or 10 ms; in a list, the files after it (R6)",
    "traceback; the others were lost",
    "tests/bin/test_transcribe.py::test_a_bad_file_does_not_stop_the_others",
)
def short(lab: Lab):
    path, good = lab.zip(), lab.wav()
    for seconds in (1 / 16000, 0.005):
        bad = lab.wav("bad.wav", seconds)
        ended = lab.run("transcribe", path, good, bad, good)
        expect(ended.code == 2 and ended.out.count("RTF") == 2, ended.err[-200:])
        expect("Traceback" not in ended.err, "traceback")
    return f"refused: {ended.err.strip().splitlines()[-1]} The others are done."


def silent(lab: Lab) -> Path:
    """A model that hears nothing, so that the search costs nothing."""
    exp = lab.exp()
    change(exp / AVERAGED, lambda s: fill(s["ctc.ctc_lo.bias"][0], 1e4))
    return exp


@row(
    48,
    "traceback",
    "an hour of audio; `.raw`; a file that is missing",
    "130 GB, TypeError, 'System error.'",
    "tests/deploy/test_audio.py::test_a_long_file_is_never_in_memory",
)
def long(lab: Lab):
    path = silent(lab)
    words = ("transcribe", path, lab.wav("long.wav", 240), "--size", 5)
    ended = lab.good(*words, gigabytes=1, seconds=200)
    (lab.folder / "a.raw").write_bytes(b"\0" * 32000)
    return [
        f"right: 4 minutes in {ended.seconds:.0f} s within 1 GB; an hour: see the test",
        lab.refused("a.raw", "transcribe", path, "a.raw"),
        lab.refused("none.wav", "transcribe", path, "none.wav"),
    ]


@row(
    49,
    "traceback",
    "`prepare an4`: a garbage line, empty fileids, not UTF-8; `--data` is a file",
    "traceback, after data were written",
    "tests/corpora/test_small_corpora.py::test_broken_an4",
)
def bad_corpus(lab: Lab):
    said = []
    for what in ("garbage", "fileids", "bytes", "lm", "file"):
        corpus = an4(lab)
        words = ["prepare", "an4", "--corpus_dir", corpus]
        path = corpus / "etc/an4_train.transcription"
        if what == "garbage":
            path.write_text(path.read_text() + "\nwhat is this?")
        if what == "fileids":
            (corpus / "etc/an4_train.fileids").write_text("")
        if what == "bytes":
            path.write_bytes(b"\xff\xfe")
        if what == "lm":
            words += ["--lm_text", "true"]
        if what == "file":
            (lab.folder / "file").write_text("mine")
            words += ["--data", "file"]
        said.append(lab.refused("", *words))
        expect(not (lab.folder / "data").exists(), "data are written")
        shutil.rmtree(corpus)
    (lab.folder / "F").write_text("mine")
    return [*said, lab.refused("F", "demo", "--exp", "F")]


@row(
    50,
    "traceback",
    "report without ref.trn, a line without id, `--output_dir` is a file; "
    "RESULTS.md not UTF-8",
    "traceback",
    "tests/bin/test_report.py::test_trn_files_that_cannot_be_scored",
)
def reports(lab: Lab):
    exp = lab.exp()
    scored = exp / "decode_a/test/score_wer"
    write_score(scored.parent, {"s-1": "A B"}, {"s-1": "A"})
    good = (scored / "hyp.trn").read_text()
    (scored / "hyp.trn").write_text("A B\n")
    said = [lab.refused("hyp.trn", "report", exp)]
    (scored / "hyp.trn").write_text(good)
    (scored / "ref.trn").unlink()
    said.append(lab.refused("ref.trn", "report", exp))
    (lab.folder / "file").write_text("mine")
    said.append(lab.refused("file", "report", exp, "--output_dir", "file"))
    (exp / "RESULTS.md").write_bytes(b"\xff\xfe")
    ended = lab.run("pack", "--asr_exp", exp)
    if ended.code:
        return [*said, sentence(ended, "RESULTS.md")]
    return [*said, "right: packed"]


@row(
    51,
    "traceback",
    "zips: a link, meta.yaml that is a list, broken or names nothing; `fs: 0`",
    "traceback",
    "tests/bin/test_fuzz_files.py::test_zip",
)
def zips(lab: Lab):
    said, wav = [], lab.wav()
    for text in (
        b"[1]",
        b"{a: [",
        b"{}",
        b"{yaml_files: {a: [b]}, files: {}}",
        b"\xff",
    ):
        path = lab.zip()
        rezip(path, "meta.yaml", text)
        said.append(lab.refused("size5.zip", "transcribe", path, wav))
    path = lab.zip()
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    said.append(lab.refused("link", "transcribe", path, wav))
    for section in (
        {"frontend_conf": {"fs": 0}},
        {"frontend_conf": {"fs": "x"}},
        {"frontend_conf": {"hop_length": 0}},
        {"frontend_conf": {"n_fft": -1}},
        {"encoder_conf": {"num_blocks": 2.5}},
        {"encoder_conf": {"attention_heads": 0}},
        {"encoder_conf": {"input_layer": 5}},
        {"frontend": "nosuch"},
        {"normalize": "nosuch"},
        {"token_type": "nosuch"},
        {"model_conf": {"ctc_weight": float("nan")}},
    ):
        path.unlink()
        path = lab.zip()
        zip_config(path, **section)
        said.append(lab.refused("", "transcribe", path, wav))
    (lab.folder / "garbage.tgz").write_bytes(b"\x1f\x8bgarbage")
    said.append(lab.refused("garbage.tgz", "transcribe", "garbage.tgz", wav))
    return said


@row(
    52,
    "traceback",
    "`load(exp, size=5)` under `torch.inference_mode()`",
    "RuntimeError",
    "tests/deploy/test_cut.py::test_building_under_inference_mode",
)
def inference_mode(lab: Lab):
    exp = lab.exp()
    audio, _ = soundfile.read(lab.wav(), dtype="float32")
    with torch.inference_mode():
        one = espnet_dynsize.load(exp, size=5)(audio)[0][0]
    expect(one == espnet_dynsize.load(exp, size=5)(audio)[0][0], "another text")
    return "right: the same text"


@row(
    53,
    "traceback",
    "`activate('8')`, `8.0`, `np.int64(8)`; `activate` on an extracted model",
    "tracebacks of torch",
    "tests/encoder/test_layers.py::test_activate_takes_subnets_only",
)
def activating(lab: Lab):
    exp = lab.exp()
    said = []
    for model in (espnet_dynsize.load(exp), espnet_dynsize.load(exp, size=5)):
        for value in ("8", 8.0, np.int64(8), torch.tensor(8), 8):
            try:
                with model.asr_model.encoder.activate(value):
                    raise WrongError(f"activate({value!r}) is taken")
            except (TypeError, ValueError, AttributeError) as error:
                said.append(f"refused: {type(error).__name__}: {error}")
    return said


@row(
    54,
    "traceback",
    "a place that cannot be written, an output folder that is missing",
    "OSError",
    "tests/bin/test_report.py::test_output_and_folders_that_cannot_be_used",
)
def read_only(lab: Lab):
    exp = lab.exp()
    said = [lab.refused("/proc", "report", exp, "--output_dir", "/proc/x/y")]
    norm = "encoder.encoders.0.conv_module.norm."
    parts = ("running_mean", "running_var", "weight", "bias")
    torch.save({norm + k: torch.ones(4) for k in parts}, "bn.pth")
    words = ("convert", "--model_file", "bn.pth", "--output")
    said.append(lab.refused("/proc", *words, "/proc/x/new.pth"))
    said.append(
        lab.refused(
            "/proc", "prepare", "an4", "--corpus_dir", an4(lab), "--data", "/proc/x"
        )
    )
    said.append(lab.refused("/proc", "demo", "--exp", "/proc/x"))
    lab.good(*words, "new/folder/new.pth")
    lab.good("report", exp, "--output_dir", "new/report")
    return ["right: missing folders are made", *said]


# --- public reports -------------------------------------------------------------------


@row(
    "R1",
    "wrong result",
    "a larger supernet starts from a smaller one's checkpoint",
    "no search, sizes of untrained scores",
    "tests/train/test_trainer.py::test_a_supernet_s_weights_start_another_run",
)
def larger(lab: Lab):
    old = lab.trained()
    words = ["--max_epoch=3", f"--init_param={old / VALID}"]
    words.append("--ignore_init_mismatch=true")
    ended = lab.train("big", *words, num_blocks=3, sizes=[4, 8, 12])
    expect(ended.code == 0 and "search phase" in ended.err, ended.err[-300:])
    return "right: the search begins anew"


@row(
    "R2",
    "wrong result",
    "`--use_lm true` with the shipped decoding configs",
    "`lm_weight: 0.0`: the language model changed nothing",
    "tests/recipe/test_refused.py::"
    "test_shipped_decoding_with_a_language_model_weighs_it",
)
def language_model(lab: Lab):
    from espnet_dynsize.recipe import refused

    weights = {}
    for path in HERE.parent.glob("egs2/*/asr1/conf/decode*.yaml"):
        weights[path.stem] = yaml.safe_load(path.read_text()).get("lm_weight")
    expect(any(weights.values()), f"{weights}")
    expect(refused is not None, "")
    return f"right: a config that weighs it is shipped; lm_weight {weights}"


@row(
    "R3",
    "traceback",
    "ESPnet3 leaves an average for each number of checkpoints",
    "refused: which one?",
    "tests/train/test_lightning.py::test_trains_resumes_extracts_and_decodes",
)
def averages(lab: Lab):
    exp, name = lab.exp(), "ctc.ctc_lo.bias"
    (exp / MODEL).unlink()
    for number in (1, 2, 3):
        shutil.copy(exp / AVERAGED, exp / f"valid.loss.ave_{number}best.pth")
    (exp / AVERAGED).unlink()
    change(exp / "valid.loss.ave_3best.pth", lambda s: fill(s[name], 7.0))
    model = espnet_dynsize.load(exp, size=3).asr_model
    expect(bool((model.ctc.ctc_lo.bias == 7).all()), "not the largest is opened")
    return "right: the average over most is opened"


@row(
    "R4",
    "refused",
    "`keep_nbest_models` with several numbers",
    "refused without `--model_file`",
    "tests/deploy/test_extract.py::test_missing_checkpoint_names_what_there_is",
)
def several(lab: Lab):
    expect(lab.train("k", "--max_epoch=4", "--keep_nbest_models", 1, 2).code == 0, "")
    lab.good("extract", "--asr_exp", "k", "--size", 3)
    return "right: extracted"


@row(
    "R5",
    "late",
    "LoRA (`use_adapter`) on a supernet",
    "trained; no size could be cut",
    "tests/train/test_refused.py::test_refused_before_training",
)
def adapters(lab: Lab):
    return lab.no_training("use_adapter", "--use_adapter=true")


@row(
    "R8",
    "traceback",
    "`transcribe` of a model that was trained on features",
    "RuntimeError; the card said to call it with audio",
    "tests/bin/test_transcribe.py::test_a_model_that_takes_features",
)
def features(lab: Lab):
    exp = lab.trained()
    return lab.refused("features", "transcribe", exp, lab.wav(), "--size", 3)


@row(
    "R15",
    "expectation",
    "`--format stock` of small sizes",
    "as large as the full model, and nothing said so",
    "tests/deploy/test_extract.py::test_stock_format_leaves_whole_blocks_out",
)
def stock(lab: Lab):
    exp = lab.exp()
    words = ("--asr_exp", exp, "--size", 3, "--format", "stock")
    ended = lab.run("extract", *words)
    if ended.code:
        return sentence(ended, "")
    expect("zero" in ended.out, ended.out)
    return f"right: says so: {ended.out.strip()}"


@row(
    "R18",
    "traceback",
    "20 minutes of audio under a limit of memory",
    "tried 14 GB",
    "tests/bin/test_transcribe.py::test_long_audio_is_cut",
)
def twenty_minutes(lab: Lab):
    wav = lab.wav("long.wav", 1200)
    words = ("transcribe", silent(lab), wav, "--size", 5)
    ended = lab.good(*words, gigabytes=2, seconds=200)
    return f"right: in {ended.seconds:.0f} s within 2 GB"


@row(
    "R20",
    "traceback",
    "streaming decoding (`asr_inference_streaming`)",
    "AssertionError",
    "tests/recipe/test_refused.py::test_what_a_family_cannot_do",
)
def streaming(lab: Lab):
    exp, wav = lab.exp(), lab.wav()
    (lab.folder / "w.scp").write_text(f"u {wav}\n")
    words = ["--asr_train_config", exp / "config.yaml", "--asr_model_file", exp / MODEL]
    words += ["--data_path_and_name_and_type", "w.scp,speech,sound", "--ngpu", 0]
    module = "espnet2.bin.asr_inference_streaming"
    ended = lab.run("run", "-m", module, *words, "--output_dir", "out")
    return sentence(ended, "stream")


def elsewhere_checked(number: str, example: str, before: str, test: str) -> None:
    ROWS.append(Row(number, "recipe", example, before, test, None))


elsewhere_checked(
    "R14",
    "an ESPnet checkout that does not fit, or packages that are missing",
    "stage 3 died",
    "tests/recipe/test_needs.py::test_all_that_is_missing_is_in_one_message",
)
elsewhere_checked(
    "R19",
    "`run_100h.sh` after `run.sh`",
    "replaced the other run's BPE model",
    "tests/recipe/test_recipes.py::test_100_hours_replace_nothing_of_960",
)


# --- the table ------------------------------------------------------------------------


def attempt(lab: Lab, one: Row) -> dict:
    lab.enter(one.number)
    start = time.monotonic()
    try:
        seen = one.attack(lab)
        said, good = ([seen] if isinstance(seen, str) else list(seen)), True
    except WrongError as error:
        said, good = [f"**wrong**: {error}"], False
    except Exception as error:
        traceback.print_exc()
        said, good = [f"**wrong**: {type(error).__name__}: {error}"], False
    finally:
        os.chdir(lab.top)
        # What a row that went wrong has not waited for
        for child in children(str(lab.folder), os.getpid()):
            os.kill(child, signal.SIGKILL)
    top = str(lab.folder)
    said = [" ".join(line.replace(f"{top}/", "").split()) for line in said]
    return dict(good=good, said=said, seconds=round(time.monotonic() - start, 1))


def cell(said: Sequence[str]) -> str:
    """What is shown of a row: the first of each kind."""
    kinds = list(dict.fromkeys(line.partition(":")[0] for line in said))
    first = [next(line for line in said if line.startswith(kind)) for kind in kinds]
    shown = "; ".join(line if len(line) < 240 else f"{line[:237]}…" for line in first)
    more = len(said) - len(first)
    return shown.replace("|", "\\|") + (f" (and {more} more)" if more else "")


def table(results: dict) -> str:
    lines = [
        "# Bad input, hostile files, kills",
        "",
        "Made by `python benchmarks/robustness.py`; every cell of the column `now` is "
        "what the real commands did.",
        "",
        "| # | kind | smallest example | version 0.1 | now | test |",
        "|---|---|---|---|---|---|",
    ]
    for one in ROWS:
        said = cell(results[one.number]["said"]) if one.number in results else "–"
        test = f"`{one.test}`" if "::" in one.test else one.test
        cells = (one.number, one.kind, one.example, one.before, said, test)
        lines.append(f"| {' | '.join(cells)} |")
    good = sum(results[one.number]["good"] for one in ROWS if one.number in results)
    lines += ["", f"{good} of {len(results)} rows are right or refused."]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "robustness"
    )
    parser.add_argument("--only", nargs="+", default=[], help="rows, also done ones")
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    espnet_dynsize.register()
    args.work.mkdir(parents=True, exist_ok=True)
    lab = Lab(args.work.resolve())
    record = lab.top / "results.json"
    results = json.loads(record.read_text()) if record.exists() else {}
    for one in ROWS:
        if one.attack is None:
            said = ["by the test: it needs a recipe's tree"]
            results[one.number] = dict(good=True, said=said)
        elif one.number in args.only or not args.only and one.number not in results:
            results[one.number] = result = attempt(lab, one)
            record.write_text(json.dumps(results, indent=1, ensure_ascii=False))
            said = cell(result["said"])
            print(f"{one.number}: {result['seconds']} s: {said}", flush=True)
    RESULT.write_text(table(results), encoding="utf-8")
    return int(not all(result["good"] for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
