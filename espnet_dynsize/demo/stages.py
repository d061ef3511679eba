"""ESPnet's stages with pip packages alone: the same `espnet2.bin.*` modules as asr.sh.

Every stage is skipped where its result is there, so an interrupted experiment goes on
where it stopped.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.core.files import new_folder, replacing
from espnet_dynsize.core.process import child
from espnet_dynsize.demo.progress import show_epochs
from espnet_dynsize.report.scores import Score, read_score, read_text, write_score

GREEDY_CTC = ("--ctc_weight", "1.0", "--beam_size", "1")


@dataclass
class Experiment:
    """An `exp/` folder and the data it uses.

    Args:
        exp: Everything that is made goes below this folder.
        data: Data directories by name: `train`, `valid`, `test`.
        token_type: `char` or `word`.
        threads: CPU threads of every process.
        ngpu: GPUs of a training; decoding takes none.
    """

    exp: Path
    data: dict[str, Path]
    token_type: str = "char"
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    ngpu: int = 0

    @property
    def tokens(self) -> Path:
        return self.exp / f"token_list_{self.token_type}.txt"

    @property
    def stats(self) -> Path:
        return self.exp / "asr_stats"

    def make_token_list(self) -> None:
        """Write the tokens of the training text, as stage 5 of asr.sh does."""
        if self.tokens.exists():
            return
        # Whole or not at all: a kill would leave an empty list, which "is there".
        with replacing(self.tokens) as partial:
            self.python(
                "espnet2.bin.tokenize_text",
                ["--token_type", self.token_type, "--field", "2-"]
                + ["--input", self.data["train"] / "text", "--output", partial]
                + ["--write_vocabulary", "true", "--add_symbol", "<blank>:0"]
                + ["--add_symbol", "<unk>:1", "--add_symbol", "<sos/eos>:-1"],
                self.exp / "tokenize.log",
            )

    def collect_stats(self, config: Path) -> None:
        """Collect shapes and feature statistics, as stage 10 of asr.sh does."""
        if self.stats.exists():
            return
        shapes = [f"--{s}_shape_file={self.data[s] / 'wav.scp'}" for s in _TRAIN_SETS]
        with new_folder(self.stats) as stats:
            self.python(
                "espnet2.bin.asr_train",
                ["--config", config, "--collect_stats", "true", "--ngpu", "0"]
                + ["--batch_type", "unsorted", "--batch_size", "20"]
                + ["--output_dir", stats / "logdir/stats.1"]
                + self._data_arguments()
                + shapes,
                self.exp / "collect_stats.log",
            )
            self.python(
                "espnet2.bin.aggregate_stats_dirs",
                ["--input_dir", stats / "logdir/stats.1", "--output_dir", stats],
                self.exp / "collect_stats.log",
            )

    def train(self, config: Path, tag: str, arguments: Sequence[str] = ()) -> Path:
        """Train `exp/<tag>`; resumes an interrupted training."""
        asr_exp = self.exp / tag
        if _finished(asr_exp):
            return asr_exp
        stats = self.stats / "train" / "feats_stats.npz"
        shapes = [
            f"--{s}_shape_file={self.stats / s / 'speech_shape'}" for s in _TRAIN_SETS
        ]
        self.python(
            "espnet2.bin.asr_train",
            ["--config", config, "--resume", "true", "--output_dir", asr_exp]
            + ["--normalize", "global_mvn", "--normalize_conf", f"stats_file={stats}"]
            + self._data_arguments()
            + shapes
            + ["--ngpu", str(self.ngpu), *arguments],
            asr_exp / "train.log",
            progress=tag,
        )
        return asr_exp

    def decode(
        self,
        asr_exp: Path,
        model_file: str,
        name: str = "test",
        options: Sequence[str] = GREEDY_CTC,
    ) -> Score:
        """Decode and score a data directory, as stages 12 and 13 of asr.sh do.

        Args:
            asr_exp: Folder of the model.
            model_file: Its checkpoint.
            name: Of the data directory.
            options: Further options of `espnet2.bin.asr_inference`.
        """
        folder = asr_exp / f"decode_{Path(model_file).stem}" / name
        reference = read_text(self.data[name] / "text")
        if not _decoded(folder, reference):
            scp = self.data[name] / "wav.scp"
            self.python(
                "espnet2.bin.asr_inference",
                ["--output_dir", folder, "--asr_train_config", asr_exp / "config.yaml"]
                + ["--asr_model_file", asr_exp / model_file]
                + ["--data_path_and_name_and_type", f"{scp},speech,sound"]
                + ["--ngpu", "0", *options],
                folder / "decode.log",
            )
        hypothesis = read_text(folder / "1best_recog" / "text")
        write_score(folder, reference, hypothesis)
        return read_score(folder)

    def python(
        self,
        module: str,
        arguments: Sequence,
        log: Path,
        progress: str | None = None,
    ) -> None:
        """Run a module with the plugin known, its output in `log`.

        Raises:
            ConfigError: it failed; the message ends with its last words.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "espnet_dynsize.bin.main", "run", "-m", module]
        # ESPnet's data workers inherit it.
        environment = dict(os.environ, OMP_NUM_THREADS=str(self.threads))
        with log.open("a", encoding="utf-8") as output:
            streams = dict(stdout=output, stderr=subprocess.STDOUT)
            command += map(str, arguments)
            # Also when this process is interrupted: no training goes on unseen.
            with child(command, env=environment, **streams) as process:
                if progress is not None:
                    show_epochs(process, log, progress)
                process.wait()
        if process.returncode != 0:
            last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-1:]
            raise ConfigError(
                f"{module} failed with exit code {process.returncode}, see {log}: "
                + " ".join(last)
            )

    def _data_arguments(self) -> list[str]:
        arguments = ["--token_list", str(self.tokens), "--token_type", self.token_type]
        arguments += ["--use_preprocessor", "true"]
        for split in _TRAIN_SETS:
            option = f"--{split}_data_path_and_name_and_type"
            arguments += [option, f"{self.data[split] / 'wav.scp'},speech,sound"]
            arguments += [option, f"{self.data[split] / 'text'},text,text"]
        return arguments


_TRAIN_SETS = ("train", "valid")


def _finished(asr_exp: Path) -> bool:
    """Whether the training has written its averages, the last thing it does."""
    path = asr_exp / "config.yaml"
    return path.exists() and all(
        (asr_exp / f"{phase}.{name}.ave.pth").exists()
        for phase, name, _ in _criteria(path)
    )


def _criteria(config: Path) -> list[list[str]]:
    return yaml.safe_load(config.read_text(encoding="utf-8"))["best_model_criterion"]


def model_file(asr_exp: Path) -> str:
    """The averaged checkpoint of the experiment's first criterion.

    Raises:
        ConfigError: there is none.
    """
    phase, name, _ = _criteria(asr_exp / "config.yaml")[0]
    if not (asr_exp / f"{phase}.{name}.ave.pth").exists():
        raise ConfigError(
            f"{asr_exp} has no {phase}.{name}.ave.pth; see its train.log."
        )
    return f"{phase}.{name}.ave.pth"


def _decoded(folder: Path, reference: dict[str, str]) -> bool:
    path = folder / "1best_recog" / "text"
    return path.exists() and read_text(path).keys() == reference.keys()
