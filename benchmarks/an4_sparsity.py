"""Weight sparsity on AN4: one network for all levels, one for each, sparse training.

    python benchmarks/an4_sparsity.py --corpus_dir DIR [--methods M ...] [--seeds 0 1]
        [--folds 0 1 2 | official]

Trainings are resumable; each finished model is a row of results/an4_sparsity.jsonl,
from which results/an4_sparsity.md and the picture are built (--tables: only that). All
networks are as wide as train_asr_omni_sparsity.yaml's, but for `narrow`: dense ones of
as many bytes as a sparsity leaves.
"""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import bench
from an4_methods import CONF
from bench import HERE, RESULTS, add_rows, begun, plain, score, train
from sparsity_tables import (
    BOTH,
    DENSE,
    EM_SOFT,
    NARROW,
    OMNI,
    ONE_SHOT,
    PRUNED,
    write_tables,
)
from trials import TRIALS

from espnet_dynsize.demo.stages import Experiment, model_file
from espnet_dynsize.deploy.extract import extract_changed

ROWS = RESULTS / "an4_sparsity.jsonl"
LEVELS = (0.5, 0.7, 0.8, 0.9)
# Sparsity → width of a dense network of as many bytes
WIDTHS = {0.5: 72, 0.7: 60, 0.8: 52, 0.9: 44}
_SPARSE = dict(levels=[0, *LEVELS], pattern="4x1", start=0.35, ramp_end=0.65)
_SPARSE |= dict(freeze=0.8, refresh_updates=50)
_MEST = dict(method="mest", pattern="4x1", interval=0.03125, stages=[0.5625, 0.75])
EM = dict(variant="em", mutation=[0.02, 0.01])
EM_S = dict(variant="em_s", mutation=[0.05, 0.025])


@dataclass
class Trial(Experiment):
    """Trains with one of `TRIALS`."""

    trial: str = ""

    def python(self, module: str, arguments: Sequence, *log, **progress) -> None:
        """See `Experiment.python`."""
        if module == "espnet2.bin.asr_train":
            module, arguments = "trials", [self.trial, *arguments]
        super().python(module, arguments, *log, **progress)


def _sparsity(**options) -> list[str]:
    return ["--model_conf", f"sparsity={json.dumps(options)}"]


# Families of sparsities → what differs from train_asr_omni_sparsity.yaml
FAMILIES = {
    OMNI: [],
    BOTH: [
        *("--model_conf", "budgets={params: [0.2586, 0.5552, 1]}"),
        *("--model_conf", "selector=simple_top_k"),
        *("--model_conf", "selector_conf={search_fraction: 0.2}"),
        *("--model_conf", "sandwich=alternate"),
    ],
    "no distillation": ["--model_conf", "distill_weight=0.0"],
    "8x1": _sparsity(**_SPARSE | {"pattern": "8x1"}),
    "unstructured": _sparsity(**_SPARSE | {"pattern": "unstructured"}),
    "sparse from 0.2 on": _sparsity(**_SPARSE | {"start": 0.2}),
    "ranked once": _sparsity(**_SPARSE | {"refresh_updates": 10_000}),
    "weight 0.3": ["--model_conf", "subnet_weight=0.3"],
    "in every second update": ["--model_conf", "sandwich=alternate"],
    "in every second update, weight 0.3": [
        *("--model_conf", "sandwich=alternate"),
        *("--model_conf", "subnet_weight=0.3"),
    ],
    **{name.replace("_", " "): [] for name in TRIALS},
    "one in each update, from 0.2 on": _sparsity(**_SPARSE | {"start": 0.2}),
    "one in each update, 1.5 times as long": ["--max_epoch", "60"],
}
TWICE = ["--max_epoch", "80"]
FORGETTING = ["--model_conf", "forgetting={drop: 0.24}"]
# Of one network each, for sparsities 0.8 and 0.9: options of the sparsity, others
MEST = {
    "MEST EM": (EM, []),
    EM_SOFT: (EM_S, []),
    "MEST EM&S, twice as long": (EM_S, TWICE),
    "MEST EM&S, twice as long, fewer utterances": (EM_S, [*TWICE, *FORGETTING]),
    "MEST EM&S, growth by gradient": (EM_S | {"growth": "gradient"}, []),
    "MEST EM&S, ERK": (EM_S | {"distribution": "erk"}, []),
    "MEST EM&S, gradients count": (EM_S | {"gradient_weight": 0.01}, []),
}
METHODS = (DENSE, OMNI, PRUNED, ONE_SHOT, NARROW, *MEST, *list(FAMILIES)[1:])


def parts(method: str) -> list[tuple[str, float | None]]:
    """A method and the sparsity of a training; a family's is None.

    The sparsest come first: it is there that methods differ.
    """
    if method in FAMILIES:
        return [(method, None)]
    levels = {DENSE: (0,)}.get(method, LEVELS[2:] if method in MEST else LEVELS)
    return [(method, level) for level in reversed(levels)]


def run(
    experiment: Experiment, fold: str, part: tuple[str, float | None], seed: int
) -> None:
    """Train, cut and score what `parts` names, in a fold; add its rows."""
    method, level = part
    if level is None:
        rows = _family(experiment, method, seed)
    else:
        rows = [_alone(experiment, method, level, seed)]
    add_rows(ROWS, rows, fold, _key)


def _key(row: dict) -> tuple:
    order = METHODS.index(row["method"]), row["size"], row["sparsity"]
    return *order, row["fold"], row["seed"]


def _family(experiment: Experiment, method: str, seed: int) -> list[dict]:
    options = ["--seed", str(seed), *FAMILIES[method]]
    config = CONF / "train_asr_omni_sparsity.yaml"
    trial = method.partition(",")[0].replace(" ", "_")
    if trial in TRIALS:
        experiment = Trial(**vars(experiment), trial=trial)
    folder, origin = train(experiment, config, _tag(method, seed), options)
    rows = []
    for suffix, cut in extract_changed(folder, model_file(folder)).items():
        size = re.search(r"size(\d+)", suffix)
        level = re.search(r"sparsity(\d+)", suffix)
        row = _row(experiment, cut, method, int(level[1]) if level else 0, seed, origin)
        rows.append(row | {"size": int(size[1]) if size else 100})
    return rows


def _alone(experiment: Experiment, method: str, level: float, seed: int) -> dict:
    makers = {DENSE: _dense, NARROW: _dense, ONE_SHOT: _one_shot}
    make = makers.get(method, _pruned)
    folder, origin = make(experiment, method, level, seed)
    return _row(experiment, folder, method, round(100 * level), seed, origin)


def _dense(experiment: Experiment, method: str, level: float, seed: int):
    width = WIDTHS.get(level, 96)
    options = [*begun(experiment, seed), "--encoder_conf", f"output_size={width}"]
    options += ["--encoder_conf", f"linear_units={4 * width}"]
    config = CONF / "train_asr_conformer.yaml"
    return train(experiment, config, f"dense{width}_seed{seed}", options)


def _one_shot(experiment: Experiment, method: str, level: float, seed: int):
    dense, _ = _dense(experiment, DENSE, 0, seed)
    at_once = dict(levels=[level], start=0, ramp_end=0, freeze=0.001)
    options = ["--seed", str(seed), *_sparsity(**_SPARSE | at_once)]
    options += ["--init_param", str(dense / model_file(dense))]
    config = CONF / "train_asr_one_shot.yaml"
    return _cut(*train(experiment, config, _tag(method, seed, level), options))


def _pruned(experiment: Experiment, method: str, level: float, seed: int):
    options, config = ["--seed", str(seed)], CONF / "train_asr_pruned.yaml"
    if method in MEST:
        config = CONF / "train_asr_mest.yaml"
        sparse, others = MEST[method]
        options += [*_sparsity(**_MEST | {"target": level} | sparse), *others]
    else:
        options += _sparsity(**_SPARSE | {"levels": [level]})
    return _cut(*train(experiment, config, _tag(method, seed, level), options))


def _cut(folder: Path, origin: dict) -> tuple[Path, dict]:
    """The one member of a family, in a folder of its own."""
    (cut,) = extract_changed(folder, model_file(folder)).values()
    return cut, origin


def _tag(method: str, seed: int, level: float | None = None) -> str:
    per_cent = "" if level is None else f"_{round(100 * level)}"
    return f"sparse_{plain(method)}{per_cent}_seed{seed}"


def _row(experiment, folder, method, sparsity, seed, origin) -> dict:
    scored = score(experiment, folder, origin)
    size = (folder / model_file(folder)).stat().st_size
    named = dict(method=method, size=100, sparsity=sparsity, seed=seed, bytes=size)
    return named | scored


if __name__ == "__main__":
    # For `trials`, in other processes
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    bench.main(__doc__, METHODS, run, ROWS, write_tables, parts=parts)
