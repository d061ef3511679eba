"""AN4's data, token list and statistics, which every benchmark on it begins with."""

from pathlib import Path

from an4_methods import CONF

from espnet_dynsize.corpora import an4
from espnet_dynsize.demo.stages import Experiment


def prepared(
    corpus_dir: Path, exp: Path, fold: int | None, threads: int = 1, ngpu: int = 0
) -> Experiment:
    """An experiment whose trainings can begin; what is there is not made again.

    Args:
        corpus_dir: Folder of AN4.
        exp: Where everything goes.
        fold: That is tested on; None: the official split.
        threads: Of each training.
        ngpu: GPUs of each training.
    """
    data = an4.prepare(corpus_dir, exp / "data", fold)
    experiment = Experiment(exp, data, threads=threads, ngpu=ngpu)
    experiment.make_token_list()
    experiment.collect_stats(CONF / "train_asr_dynsize.yaml")
    return experiment
