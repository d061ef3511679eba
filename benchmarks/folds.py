"""AN4's data, token list and statistics, which every benchmark on it begins with."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from an4_methods import CONF

from espnet_dynsize.corpora import an4
from espnet_dynsize.demo.stages import Experiment

OFFICIAL = "official"


def add_folds(parser: ArgumentParser, default: Sequence[str]) -> None:
    """Add the option that says which speakers are tested on."""
    folds = [OFFICIAL, *map(str, range(an4.FOLDS))]
    parser.add_argument("--folds", nargs="+", choices=folds, default=list(default))


def prepared(
    corpus_dir: Path, exp: Path, fold: str, threads: int = 1, ngpu: int = 0
) -> Experiment:
    """An experiment whose trainings can begin; what is there is not made again.

    Args:
        corpus_dir: Folder of AN4.
        exp: Where everything goes, each fold in a folder of its own.
        fold: That is tested on, see `add_folds`.
        threads: Of each training.
        ngpu: GPUs of each training.
    """
    number = None
    if fold != OFFICIAL:
        exp, number = exp / f"fold{fold}", int(fold)
    data = an4.prepare(corpus_dir, exp / "data", number)
    experiment = Experiment(exp, data, threads=threads, ngpu=ngpu)
    experiment.make_token_list()
    experiment.collect_stats(CONF / "train_asr_dynsize.yaml")
    return experiment
