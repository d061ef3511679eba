"""What asr.sh's stages call and a machine may lack, asked for before they begin."""

import ast
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from espnet_dynsize.core.errors import ConfigError
from espnet_dynsize.recipe import asr_sh
from espnet_dynsize.recipe.options import Options
from espnet_dynsize.recipe.tree import FITTING

# As asr.sh reads it; a recipe without one has the environment as it is
_PATH_SH = "set -euo pipefail\n[ ! -f path.sh ] || . ./path.sh > /dev/null\n"
_PROGRAMS = 'for name; do command -v "$name" > /dev/null || echo "$name"; done'
_MODULES = """python3 - "$@" <<EOF
import importlib.util, sys
for name in sys.argv[1:]:
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        found = None
    if found is None:
        print(name)
EOF"""
_READ_A_PIPE = 'python3 pyscripts/feats/feat-to-shape.py "scp:true |" -'


class Program(NamedTuple):
    """A program, the stage that calls it, and where it comes from."""

    name: str
    stage: int
    source: str
    when: Callable[[Options], bool] = lambda options: True


PROGRAMS = (
    Program("perl", asr_sh.FORMAT, "Debian's package perl"),
    Program(
        "sox",
        asr_sh.SPEED,
        "Debian's package sox",
        lambda options: bool(options.get("speed_perturb_factors").strip()),
    ),
    Program(
        "spm_train",
        asr_sh.TOKENS,
        "tools/extra_path.sh of ESPnet's tree puts it in PATH",
        lambda options: options.get("token_type") == "bpe",
    ),
    Program("lmplz", asr_sh.NGRAM, "tools/installers/install_kenlm.sh"),
    Program(
        "sclite",
        asr_sh.SCORE,
        "make sctk.done in tools/ of ESPnet's tree, or Debian's package sctk with "
        "PATH=/usr/lib/sctk/bin:$PATH",
    ),
)


def check_needs(options: Options, config: Mapping) -> None:
    """Find everything that is missing for the stages that are asked for.

    Args:
        options: Those of `asr.sh`, whose links are in the working directory.
        config: The training config.

    Raises:
        ConfigError: something is missing; the message lists all of it.
    """
    missing = [*_programs(options), *_modules(options, config), *_features(options)]
    if missing:
        lines = "".join(f"\n  {line}" for line in missing)
        raise ConfigError(f"before work begins, this must be installed:{lines}")


def _programs(options: Options) -> Iterator[str]:
    needed = [p for p in PROGRAMS if options.runs(p.stage) and p.when(options)]
    lost = _in_path_sh(_PROGRAMS, *(program.name for program in needed)).split()
    for program in needed:
        if program.name in lost:
            yield f"{program.name} (stage {program.stage}): {program.source}"


def _modules(options: Options, config: Mapping) -> Iterator[str]:
    needed = {"espnet2": asr_sh.DATA}
    if options.runs(asr_sh.FORMAT) and options.get("feats_type") == "raw":
        script = Path("pyscripts/audio/format_wav_scp.py")
        needed |= dict.fromkeys(imports(script), asr_sh.FORMAT)
    if options.runs(asr_sh.STATS):
        needed["editdistance"] = asr_sh.STATS
    if options.runs(asr_sh.TRAIN) and config.get("use_tensorboard", True):
        needed["tensorboard"] = asr_sh.TRAIN
    for name in _in_path_sh(_MODULES, *needed).split():
        yield f"{name} (stage {needed[name]}, Python): {_source_of(name)}"


def _source_of(module: str) -> str:
    top = module.partition(".")[0]
    if top in ("espnet", "espnet2") and top != module:
        return f"ESPnet's tree must be {FITTING}"
    if top == "espnet2":
        return (
            "activate ESPnet's environment, or let tools/setup_venv.sh of its tree "
            "write tools/activate_python.sh"
        )
    return f"pip install {top}"


def imports(script: Path) -> list[str]:
    """The modules without which a script does not start; none if there is no script."""
    if not script.is_file():
        return []
    names = []
    for node in ast.parse(script.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(str(node.module))
    return list(dict.fromkeys(names))


def _features(options: Options) -> Iterator[str]:
    """Stage 3 measures features with a script that reads them through a pipe."""
    extracted = options.get("feats_type") == "extracted"
    script = Path("pyscripts/feats/feat-to-shape.py")
    if not (extracted and options.runs(asr_sh.FORMAT) and script.is_file()):
        return
    done = _bash(_READ_A_PIPE)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        yield (
            f"--feats_type extracted (stage 3): {script} fails with '{said}': it needs "
            "h5py (pip install h5py) and Kaldi files that can be read from a pipe "
            "(omniio 0.1.2 cannot); or write the data directories of stage 3 yourself "
            "and give --skip_stages 3"
        )


def _in_path_sh(command: str, *words: str) -> str:
    """What a command says in the environment that path.sh makes.

    Raises:
        ConfigError: path.sh fails.
    """
    done = _bash(command, *words)
    if done.returncode != 0:
        raise ConfigError(f"path.sh must run: {done.stderr.strip()}")
    return done.stdout


def _bash(command: str, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", "-c", _PATH_SH + command, "bash", *words],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
