"""Kill a training again and again; does it end as if nothing had happened?

    python benchmarks/kill_test.py [--kills 20] [--selector simple_top_k]

A small supernet trains on noise through `espnet2.bin.asr_train`, on one thread. One run
is left alone; the other gets SIGKILL at random moments of both phases, also while files
are written, and is resumed each time. Weights, masks and averages must be equal.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from training import train_arguments, write_data  # noqa: E402

RESULTS = HERE / "results"
EPOCHS, UPDATES_PER_EPOCH = 60, 4


def command(data: Path, exp: Path, selector: str) -> list[str]:
    conf = dict(selector=selector)
    conf["selector_conf"] = {"search_updates": EPOCHS * UPDATES_PER_EPOCH // 2}
    arguments = train_arguments(data, exp, [f"--max_epoch={EPOCHS}"], **conf)
    main = ["-m", "espnet_dynsize.bin.main", "run", "-m", "espnet2.bin.asr_train"]
    return [sys.executable, *main, *arguments]


def start(arguments: list[str], log: Path) -> subprocess.Popen:
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    with log.open("a") as output:
        return subprocess.Popen(
            arguments, stdout=output, stderr=subprocess.STDOUT, env=environment
        )


def epoch_of(exp: Path) -> int:
    """Epochs that the experiment has finished."""
    epochs = [int(p.stem[: -len("epoch")]) for p in exp.glob("*epoch.pth")]
    return max(epochs, default=0)


def kill_once(arguments, exp: Path, log: Path, until: float, delay: float) -> dict:
    """Kill `delay` seconds after epoch `until` has ended; what the kill met."""
    process = start(arguments, log)
    while process.poll() is None and epoch_of(exp) < until:
        time.sleep(0.001)
    time.sleep(delay)
    finished = process.poll() is not None
    process.send_signal(signal.SIGKILL)
    process.wait()
    writing = any(_incomplete(p) for p in exp.glob("*.pth") if not p.is_symlink())
    return dict(epoch=epoch_of(exp), finished=finished, file_cut=writing)


def _incomplete(path: Path) -> bool:
    try:
        torch.load(path, weights_only=False)
    except Exception:
        return True
    return False


def compare(one: Path, other: Path) -> dict[str, bool]:
    """File → whether both runs' tensors are equal."""
    names = ["checkpoint.pth", "valid.loss.ave.pth", "valid.loss.best.pth"]
    return {name: _same(_states(one / name), _states(other / name)) for name in names}


def _states(path: Path) -> dict:
    states = torch.load(path, weights_only=False)
    return states.get("model", states)


def _same(ours: dict, theirs: dict) -> bool:
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[n].nan_to_num(-1.0), theirs[n].nan_to_num(-1.0)) for n in ours
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--selector", default="simple_top_k")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    dice = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = write_data(work / "data")
        whole, killed = work / "whole", work / "killed"
        whole_command = command(data, whole, args.selector)
        assert start(whole_command, work / "whole.log").wait() == 0
        arguments = command(data, killed, args.selector)
        kills = []
        for i in range(args.kills):
            until = (i + 1) * EPOCHS / (args.kills + 1)
            # An epoch takes a quarter of a second here; its files a few milliseconds.
            delay = dice.choice([0.0, dice.uniform(0, 0.02), dice.uniform(0, 0.4)])
            kills.append(
                kill_once(arguments, killed, work / "killed.log", until, delay)
            )
            print(f"kill {i + 1}: {kills[-1]}")
        assert start(arguments, work / "killed.log").wait() == 0
        result = dict(
            selector=args.selector,
            epochs=EPOCHS,
            search_epochs=EPOCHS // 2,
            kills=kills,
            equal=compare(whole, killed),
        )
    path = RESULTS / f"kill_test_{args.selector}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["equal"]))
    assert all(result["equal"].values())


if __name__ == "__main__":
    main()
