"""A slurm cluster of two nodes: programs of slurm's names that start processes here."""

from pathlib import Path

_SBATCH = """#!/usr/bin/env bash
setsid bash "${@: -1}" > /dev/null 2>&1 &
echo "Submitted batch job 1"
"""
_SRUN = """#!/usr/bin/env bash
shift  # --export=ALL
export SLURM_NTASKS=2 SLURM_STEP_NUM_NODES=2 SLURM_STEP_NODELIST=localhost
export SLURM_LOCALID=0
pids=()
for node in 0 1; do
    SLURM_PROCID=${node} SLURM_NODEID=${node} "$@" &
    pids+=($!)
done
for pid in "${pids[@]}"; do wait "${pid}" || exit 1; done
"""


def write_cluster(folder: Path, **programs: str) -> Path:
    """Write `sbatch` and `srun`, and other programs (name → script), into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("sbatch", _SBATCH), ("srun", _SRUN), *programs.items()):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder
