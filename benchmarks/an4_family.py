"""Supernets against individually trained models of the same sizes, on AN4.

    python benchmarks/an4_family.py --corpus_dir DIR [--methods M ...] [--seeds 0 1]
        [--folds 0 1 2 | official]

Every method trains with the same data and the same number of updates. Trainings are
resumable; each finished model is a row of results/an4_family.jsonl, from which
results/an4_family.md and the pictures are built (--tables: only that). A fold tests on
a fifth of the speakers (`corpora.an4.read_folds`); the rows of folds have the errors in
every utterance, whose words are in results/an4_words.json.
"""

from pathlib import Path

import bench
import yaml
from an4_methods import (
    CONF,
    DECODING,
    DEFAULT,
    FINE_TUNED,
    FROM_CTC,
    IN_CONTEXTS,
    INDIVIDUAL,
    KINDS,
    METHODS,
    OWN_KIND,
    RUNNABLE,
    STOCK,
    STREAMING,
    SUPERNETS,
    WIDE,
    arguments,
    config_file,
    layers_of,
)
from an4_tables import write_tables
from bench import RESULTS, add_rows, begun, plain, score, train

from espnet_dynsize.core.context import WHOLE
from espnet_dynsize.core.files import whole
from espnet_dynsize.core.keys import ENCODER_PREFIX, streams
from espnet_dynsize.core.yaml_base import load_config
from espnet_dynsize.demo.stages import GREEDY_CTC, Experiment, model_file
from espnet_dynsize.deploy.extract import extract, extract_changed

ROWS = RESULTS / "an4_family.jsonl"
CONFORMER = CONF / "train_asr_conformer.yaml"


def run(experiment: Experiment, fold: str, method: str, seed: int) -> None:
    """Train, cut and score all sizes of a method in a fold; add its rows."""
    if method == INDIVIDUAL:
        rows = [_individual(experiment, layers, seed) for layers in WIDE[::-1]]
    elif method in OWN_KIND.values():
        sizes = layers_of(method)[::-2]
        rows = [_own_kind(experiment, method, layers, seed) for layers in sizes]
    else:
        rows = _supernet(experiment, method, seed)
    add_rows(ROWS, rows, fold, _key)


def _key(row: dict) -> tuple:
    return METHODS.index(row["method"]), row["layers"], row["fold"], row["seed"]


def _row(experiment, folder, method, layers, seed, origin) -> dict:
    """A row; `layers` are those of the Conformer trained alone to compare with."""
    options = GREEDY_CTC
    if method in DECODING:
        options = ("--config", str(CONF / f"decode_{DECODING[method]}.yaml"))
    scored = score(experiment, folder, origin, options)
    return dict(method=method, layers=layers, seed=seed, **scored)


def _supernet(experiment: Experiment, method: str, seed: int) -> list[dict]:
    supernet, origin = _train_supernet(experiment, method, seed)
    folders = extract_changed(supernet, model_file(supernet))
    sizes = list(zip(layers_of(method), folders))
    rows = [
        _row(experiment, folders[size], method, layers, seed, origin)
        for layers, size in sizes
    ]
    for name, (context, _) in IN_CONTEXTS.items() if method == "dual mode" else ():
        # Whole utterances are for the full network.
        for layers, size in sizes[-1:] if context == WHOLE else sizes:
            folder = _in_context(supernet, size, context)
            rows.append(_row(experiment, folder, name, layers, seed, origin))
    return rows


def _train_supernet(experiment: Experiment, method: str, seed: int):
    options = ["--seed", str(seed), *arguments(SUPERNETS[method])]
    if method == FINE_TUNED:
        stock, _ = _train_individual(experiment, WIDE[-1], seed)
        options += ["--init_param", str(stock / model_file(stock))]
    elif method in FROM_CTC:
        family, _ = _train_supernet(experiment, DEFAULT, seed)
        options += _as_ctc(family)
    tag = f"{plain(method)}_seed{seed}"
    return train(experiment, config_file(method), tag, options)


def _as_ctc(folder: Path) -> list[str]:
    """Options of a model whose encoder and CTC begin as a CTC model's."""
    checkpoint = folder / model_file(folder)
    parts = (f"{checkpoint}:{part}:{part}" for part in ("encoder", "ctc"))
    return ["--init_param", *parts]


def _in_context(supernet: Path, size: str, context: str) -> Path:
    names, where = [int(size.removeprefix("size"))], model_file(supernet)
    # What is there already is compared.
    (cut,) = extract(supernet, where, names, context=context)
    return cut.directory


def _individual(experiment: Experiment, layers: int, seed: int) -> dict:
    folder, origin = _train_individual(experiment, layers, seed)
    return _row(experiment, folder, INDIVIDUAL, layers, seed, origin)


def _train_individual(experiment: Experiment, layers: int, seed: int):
    blocks = layers // len(KINDS)
    tag = f"conformer{blocks}_seed{seed}"
    options = [*begun(experiment, seed), "--encoder_conf", f"num_blocks={blocks}"]
    return train(experiment, CONFORMER, tag, options)


def _own_kind(experiment: Experiment, method: str, layers: int, seed: int) -> dict:
    """Another model than a CTC Conformer, trained alone."""
    family, blocks = method.removesuffix(", alone"), layers // len(KINDS)
    options = begun(experiment, seed)
    if family in FROM_CTC:
        ctc, _ = _train_individual(experiment, layers, seed)
        options = ["--seed", str(seed), *_as_ctc(ctc)]
    options += ["--encoder_conf", f"num_blocks={blocks}"]
    options += arguments(STREAMING.get(family, {}))
    stock = _stock_config(experiment, config_file(method))
    tag = f"{plain(method)}{blocks}_seed{seed}"
    folder, origin = train(experiment, stock, tag, options)
    return _row(experiment, folder, method, layers, seed, origin)


def _stock_config(experiment: Experiment, config: Path) -> Path:
    """What train_asr_conformer.yaml is to the family's config, for another family."""
    given = load_config(config)
    # ESPnet's streaming encoders take padding for speech: ours, without the family.
    prefix = "" if streams(given) else ENCODER_PREFIX
    encoder = given["encoder"].removeprefix(prefix)
    stock = dict(base=str(config), encoder=encoder, model="espnet", **STOCK)
    path = experiment.exp / f"stock_{config.name}"
    with whole(path) as partial:  # several trainings at once may want it
        partial.write_text(yaml.safe_dump(stock))
    return path


if __name__ == "__main__":
    bench.main(__doc__, RUNNABLE, run, ROWS, write_tables)
