"""From a corpus to a table: train a supernet, cut it, decode and score every size."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.files import write_text
from espnet_dynsize.core.yaml_base import load_config, read_yaml
from espnet_dynsize.corpora import an4
from espnet_dynsize.demo import digits
from espnet_dynsize.demo.stages import Experiment, model_file
from espnet_dynsize.deploy.extract import extract_changed
from espnet_dynsize.report.scores import read_text, read_trn
from espnet_dynsize.report.write import write_report

HERE = Path(__file__).parent
TOKEN_TYPES = {"digits": "word", "an4": "char"}
TIMED = 8  # utterances
RECORD = "demo.yaml"
SUPERNET = "asr_dynsize"
SYNTHETIC = (
    "The speech of this corpus is synthetic (eSpeak NG). For real speech, use AN4:\n"
    "  espnet-dynsize demo --corpus an4 --corpus_dir DIR"
)


def prepare_data(corpus: str, corpus_dir: Path | None, exp: Path) -> dict[str, Path]:
    """Write the data directories of `corpus`.

    Raises:
        ConfigError: the corpus is not where `corpus_dir` says.
    """
    if corpus == "digits":
        return digits.prepare(exp / "audio", exp / "data")
    return an4.prepare(Path(corpus_dir), exp / "data")


def _claim(
    exp: Path,
    corpus: str,
    corpus_dir: Path | None,
    config: Path,
    arguments: Sequence[str],
) -> None:
    """Remember what `exp` is for: an earlier run goes on, another one is refused.

    Raises:
        ConfigError: it has been begun with other data or another config.
    """
    if corpus == "an4" and corpus_dir is None:
        raise ConfigError(
            "corpus=an4 needs corpus_dir: the folder with AN4's etc/ and wav/."
        )
    now = {
        "corpus": corpus,
        "corpus_dir": corpus_dir and str(Path(corpus_dir).resolve()),
        "config": load_config(config),
        "arguments": list(arguments),
    }
    path = exp / RECORD
    begun = read_yaml(path) if path.is_file() else None
    if begun is None and (exp / SUPERNET).exists():
        raise ConfigError(f"exp={exp} has a training, but no {RECORD}: use another.")
    for key, value in now.items() if isinstance(begun, dict) else ():
        if begun.get(key) != value:
            raise ConfigError(
                f"exp={exp} was begun with another {key}; use another, or remove it."
            )
    write_text(path, yaml.safe_dump(now))


def run_demo(
    corpus: str,
    corpus_dir: Path | None,
    exp: Path,
    config: Path | None = None,
    arguments: Sequence[str] = (),
) -> None:
    """Run every stage; prints the table, pictures and an example per size.

    Args:
        corpus: `digits` or `an4`.
        corpus_dir: Where AN4 is.
        exp: Folder for everything that is made; an earlier run goes on.
        config: Training config; None for the corpus's own.
        arguments: More arguments for `espnet2.bin.asr_train`.
    """
    config = config or HERE / f"{corpus}.yaml"
    _claim(exp, corpus, corpus_dir, config, arguments)
    if corpus == "digits":
        print(SYNTHETIC, flush=True)
    print("1/5 data", flush=True)
    experiment = Experiment(
        exp, prepare_data(corpus, corpus_dir, exp), TOKEN_TYPES[corpus]
    )
    print("2/5 token list and feature statistics", flush=True)
    experiment.make_token_list()
    experiment.collect_stats(config)
    print("3/5 training the supernet", flush=True)
    supernet = experiment.train(config, SUPERNET, arguments)
    checkpoint = model_file(supernet)
    print("4/5 cutting every size", flush=True)
    folders = list(extract_changed(supernet, checkpoint).values())
    print("5/5 decoding and scoring", flush=True)
    for folder in folders:
        experiment.decode(folder, checkpoint)
    audio = list(read_text(experiment.data["test"] / "wav.scp").values())
    write_report(folders, checkpoint, exp / "report", [Path(p) for p in audio[:TIMED]])
    _print_examples(folders)
    if corpus == "digits":
        print(SYNTHETIC)


def _print_examples(folders: Sequence[Path]) -> None:
    """Print the utterance on which the sizes differ most, as each one hears it."""
    scored = [next(folder.glob("decode_*/test/score_wer")) for folder in folders]
    reference = read_trn(scored[0] / "ref.trn")
    hypotheses = [read_trn(folder / "hyp.trn") for folder in scored]
    utterance = max(
        sorted(reference), key=lambda u: len({hyp[u] for hyp in hypotheses})
    )
    print(f"\nexample {utterance}\n  said: {reference[utterance]}")
    for folder, hypothesis in zip(folders, hypotheses):
        print(f"  {folder.name}: {hypothesis[utterance]}")
