"""Kill a training and its extraction again and again; do they end as if never killed?

    python benchmarks/kill_test.py [--kills 20] [--accum_grad 1 2 3] [--selector S]

A small supernet trains on noise with ESPnet's own trainer, on one thread, once left
alone and once with SIGKILL at chosen moments, after each of which it is resumed:

- first checkpoint: while `checkpoint.pth` is written for the first time,
- search, joint: at a random update of the phase, or while one of an epoch's files is
  written (a random part of it is on disk),
- averaging: while an average is written,
- extraction: while an extracted size's checkpoint is written.

Then weights, optimiser, masks, averages and extracted sizes must be equal bit for bit,
and nothing else may be left. Every child is forked from one process that has ESPnet
imported, so that a kill costs a second.
"""

import argparse
import io
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from training import train_arguments, write_data  # noqa: E402

import espnet_dynsize  # noqa: E402
from espnet_dynsize.core.process import end_on_signals  # noqa: E402
from espnet_dynsize.deploy.extract import extract  # noqa: E402
from espnet_dynsize.train.model import DynSizeASRModel  # noqa: E402
from espnet_dynsize.train.task import DynSizeASRTask  # noqa: E402

RESULTS = HERE / "results"
EPOCHS, SEARCH_EPOCHS, BATCHES = 44, 24, 4
MOMENTS = ("first checkpoint", "search", "joint", "averaging", "extraction")
MODEL = "valid.loss.ave.pth"


class Kill:
    """Kills this process in an update, or in the middle of a file's writing."""

    def __init__(self, update: int | None, name: str, share: float):
        self.update, self.name, self.share = update, name, share

    def arm(self) -> None:
        save, forward = torch.save, DynSizeASRModel.forward

        def cut(states, path, *args, **kwargs):
            if self.update is not None or self.name not in str(path):
                return save(states, path, *args, **kwargs)
            whole = io.BytesIO()
            save(states, whole)
            content = whole.getvalue()
            with open(path, "wb") as file:
                file.write(content[: int(self.share * len(content))])
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)

        def watched(model, *args, **kwargs):
            now = model.schedule.now
            if self.update is not None and model.training and now >= self.update:
                os.kill(os.getpid(), signal.SIGKILL)
            return forward(model, *args, **kwargs)

        torch.save, DynSizeASRModel.forward = cut, watched


def in_child(work: Callable[[], object], log: Path, kill: Kill | None = None) -> bool:
    """Run `work` in a fork; whether it came to its end.

    Raises:
        RuntimeError: it failed without having been killed.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            if kill is not None:
                kill.arm()
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(code)
    try:
        _, status = os.waitpid(pid, 0)
    except BaseException:  # it ends with this process
        os.kill(pid, signal.SIGKILL)
        raise
    if os.WIFSIGNALED(status):
        return False
    if os.WEXITSTATUS(status) != 0:
        raise RuntimeError(f"see {log}: {log.read_text().splitlines()[-1]}")
    return True


def finished_epochs(exp: Path) -> int:
    epochs = [int(p.stem[: -len("epoch")]) for p in exp.glob("*epoch.pth")]
    return max(epochs, default=0)


def choose(moment: str, epoch: int, updates: int, dice: random.Random) -> Kill:
    """A kill soon after `epoch` epochs, each of so many updates."""
    share = dice.choice([0.0, dice.random(), 1.0])
    if moment == "first checkpoint":
        return Kill(None, "checkpoint.pth", dice.random())
    if moment == "averaging":
        return Kill(None, ".ave_", share)
    if moment == "extraction":
        return Kill(None, MODEL, share)
    if dice.random() < 0.5:
        return Kill(epoch * updates + dice.randint(1, updates), "", share)
    return Kill(None, dice.choice(["checkpoint.pth", "epoch.pth"]), share)


def train_with_kills(
    train: Callable[[], object],
    exp: Path,
    log: Path,
    kills: int,
    updates: int,
    dice: random.Random,
) -> dict[str, int]:
    """Train to the end; returns how many kills each moment has had."""
    done = dict.fromkeys(MOMENTS[:-1], 0)
    while True:
        epoch = finished_epochs(exp)
        moment = MOMENTS[0]
        if done[moment] == kills:
            moment = "search" if epoch < SEARCH_EPOCHS else "joint"
        # All that a phase is to have has happened: train on into the next.
        kill = None
        if moment in done and done[moment] < kills:
            kill = choose(moment, epoch, updates, dice)
        elif moment == "search":
            kill = Kill(SEARCH_EPOCHS * updates + 1, "", 0.0)
            moment = "into joint"
        elif done["averaging"] < kills:
            moment = "averaging"
            kill = choose(moment, epoch, updates, dice)
        if in_child(train, log, kill):
            return done
        done[moment] = done.get(moment, 0) + 1


def states(path: Path) -> list:
    """Every tensor of a file, in order."""
    found: list = []

    def collect(value: object) -> None:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                collect(value[key])
        elif isinstance(value, list | tuple):
            for part in value:
                collect(part)

    content = torch.load(path, weights_only=False)
    # Times and memory of each epoch differ.
    collect({k: v for k, v in content.items() if k != "reporter"})
    return found


def same(one: Path, other: Path) -> bool:
    ours, theirs = states(one), states(other)
    return len(ours) == len(theirs) and all(
        torch.equal(a.nan_to_num(-1.0), b.nan_to_num(-1.0))
        for a, b in zip(ours, theirs)
    )


def names(folder: Path) -> set[str]:
    """Files below a folder that somebody would have to know of."""
    inside = {str(p.relative_to(folder)) for p in folder.rglob("*")}
    # What is set aside is named; the record of what was written is no rest.
    return {n for n in inside if Path(n).name != "checkpoint.unreadable.pth"}


def run(accum_grad: int, args: argparse.Namespace, work: Path) -> dict:
    """All kills of one setting, and what is equal afterwards."""
    dice = random.Random(args.seed)
    data = write_data(work / "data")
    updates = BATCHES // accum_grad
    conf = {"search_updates": SEARCH_EPOCHS * updates}
    options = [f"--max_epoch={EPOCHS}", f"--accum_grad={accum_grad}"]

    def training(exp: Path) -> Callable[[], object]:
        arguments = train_arguments(
            data, exp, options, selector=args.selector, selector_conf=conf
        )
        return lambda: DynSizeASRTask.main(cmd=arguments)

    whole, killed, log = work / "whole/asr", work / "killed/asr", work / "log"
    assert in_child(training(whole), log)
    kills = train_with_kills(training(killed), killed, log, args.kills, updates, dice)
    assert in_child(lambda: extract(whole, MODEL, []), log)
    kills["extraction"] = 0
    while kills["extraction"] < args.kills:
        kill = choose("extraction", 0, 0, dice)
        assert not in_child(lambda: extract(killed, MODEL, [3]), log, kill)
        kills["extraction"] += 1
    assert in_child(lambda: extract(killed, MODEL, []), log)
    files = ["checkpoint.pth", MODEL, "valid.loss.best.pth"]
    files += [f"../asr_size{size}/{MODEL}" for size in (3, 5, 8)]
    return dict(
        selector=args.selector,
        accum_grad=accum_grad,
        kills={moment: kills[moment] for moment in MOMENTS},
        equal={name: same(whole / name, killed / name) for name in files},
        left_over=sorted(names(killed.parent) ^ names(whole.parent)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--accum_grad", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--selector", default="simple_top_k")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    end_on_signals()
    torch.set_num_threads(1)
    espnet_dynsize.register()
    git = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    rows = []
    for accum_grad in args.accum_grad:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(run(accum_grad, args, Path(folder)))
        rows[-1] |= dict(commit=commit, machine=platform.machine())
        print(json.dumps(rows[-1]), flush=True)
        path = RESULTS / f"kill_test_{args.selector}.json"
        path.write_text(json.dumps(rows, indent=1) + "\n")
    assert all(all(row["equal"].values()) and not row["left_over"] for row in rows)


if __name__ == "__main__":
    main()
