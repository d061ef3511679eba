"""ESPnet's own launcher, two nodes of a slurm cluster that is two processes here."""

import subprocess
import sys

import torch
import yaml
from cluster import write_cluster
from training import train_arguments, write_data

# Starts a job at once; the arguments are those of ESPnet's utils/slurm.pl.
SLURM_PL = """#!/usr/bin/env bash
while [[ "$1" == --* ]]; do shift 2; done
log=$1; shift
exec "$@" > "${log}" 2>&1
"""


def test_two_nodes(tmp_path, monkeypatch):
    cluster = write_cluster(tmp_path / "cluster", **{"slurm.pl": SLURM_PL})
    monkeypatch.setenv("PATH", str(cluster), prepend=":")
    data, exp = write_data(tmp_path / "data"), tmp_path / "exp"
    train = [sys.executable, "-m", "espnet_dynsize.bin.main", "run", "-m"]
    train += ["espnet2.bin.asr_train", *train_arguments(data, exp, ["--max_epoch=3"])]
    launch = [sys.executable, "-m", "espnet2.bin.launch", "--num_nodes", "2"]
    launch += ["--cmd", f"{cluster / 'slurm.pl'} --name job", "--ngpu", "0"]
    launch += ["--log", str(exp / "train.log"), "--init_file_prefix", f"{exp}/.init_"]
    launch += ["--multiprocessing_distributed", "true", "--"]
    done = subprocess.run([*launch, *train], capture_output=True, text=True)
    log = (exp / "train.log").read_text() if (exp / "train.log").exists() else ""
    assert done.returncode == 0, done.stderr[-2000:] + log[-2000:]
    states = torch.load(exp / "checkpoint.pth", weights_only=False)["model"]
    assert states["schedule.update"] == 12
    assert not states["schedule.selection.fixed_masks"].isnan().any()
    config = yaml.safe_load((exp / "config.yaml").read_text())
    assert config["distributed"] and config["dist_launcher"] == "slurm"
