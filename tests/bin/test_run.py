import resource
import subprocess
import sys
from pathlib import Path

import pytest
from training import train_arguments, write_data

from espnet_dynsize.bin.run import TASKS, refuse_streaming
from espnet_dynsize.core.errors import ConfigError

# Of what a process has used, by `resource.getrusage`
CPU_SECONDS = ("ru_utime", "ru_stime")
MAIN = [sys.executable, "-m", "espnet_dynsize.bin.main"]


def run(*arguments, **kwargs):
    return subprocess.run(
        [*MAIN, "run", *map(str, arguments)], capture_output=True, text=True, **kwargs
    )


def script(tmp_path, text, name="program.py"):
    (tmp_path / name).write_text(text)
    return tmp_path / name


@pytest.mark.parametrize("code", [0, 1, 3])
def test_exit_code_passes_through(tmp_path, code):
    assert run(script(tmp_path, f"import sys; sys.exit({code})")).returncode == code


def test_an_exception_is_exit_code_1(tmp_path):
    result = run(script(tmp_path, "raise RuntimeError('boom')"))
    assert result.returncode == 1 and "boom" in result.stderr


def test_arguments_and_names_are_those_of_python(tmp_path):
    program = script(tmp_path, "import sys; print(__name__, sys.argv[1:], sys.path[0])")
    result = run(program, "-m", "--help", "a b")
    assert result.stdout == f"__main__ ['-m', '--help', 'a b'] {tmp_path}\n"
    assert result.stderr == ""


def test_module_sees_its_arguments(tmp_path):
    script(tmp_path, "import sys; print(__name__, sys.argv[1:])", "some_module.py")
    result = run("-m", "some_module", "--x", "1", cwd=tmp_path)
    assert result.stdout == "__main__ ['--x', '1']\n"


def test_stdin_reaches_the_program(tmp_path):
    result = run(script(tmp_path, "print(input().upper())"), input="hello\n")
    assert result.stdout == "HELLO\n"


def test_the_plugin_is_known_where_the_task_is_imported(tmp_path):
    program = script(
        tmp_path,
        "from espnet2.tasks.asr import ASRTask, encoder_choices\n"
        "print(ASRTask.__name__, 'dynsize_conformer' in encoder_choices.classes)\n",
    )
    assert run(program).stdout == "DynSizeASRTask True\n"


def test_a_script_may_import_the_plugin_s_task_first(tmp_path):
    program = script(
        tmp_path,
        "from espnet_dynsize.train.choices import ENCODERS\n"
        "from espnet2.tasks.asr import ASRTask, encoder_choices\n"
        "print(ASRTask.__name__, set(ENCODERS) <= set(encoder_choices.classes))\n",
    )
    assert run(program).stdout == "DynSizeASRTask True\n"


def test_only_the_tasks_import_espnet_s():
    """With ESPnet's, the plugin is registered: what is half imported then is lost."""
    train = Path(__file__).resolve().parents[2] / "espnet_dynsize" / "train"
    tasks = tuple(f"from {name} import" for name in TASKS)
    found = {
        path.name
        for path in train.glob("*.py")
        if any(line.startswith(tasks) for line in path.read_text().splitlines())
    }
    assert found == {"task.py", "transducer_task.py"}


def test_the_other_task_is_registered_with_its_script():
    result = run("-m", "espnet2.bin.asr_transducer_train", "--help")
    assert result.returncode == 0, result.stderr[-2000:]
    assert "--encoder {None,dynsize_chunked}" in result.stdout


def test_nothing_is_imported_where_it_is_not_needed(tmp_path):
    program = script(
        tmp_path,
        "import sys\n"
        "heavy = ('torch', 'espnet2', 'numpy', 'espnet_dynsize.train.task')\n"
        "print([name for name in heavy if name in sys.modules])\n",
    )
    assert run(program).stdout == "[]\n"


def test_starts_nearly_as_fast_as_python(tmp_path):
    def seconds(*command):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return sum(getattr(after, t) - getattr(before, t) for t in CPU_SECONDS)

    # Less than an import of numpy. Of the processor's time and the best of each, as a
    # busy machine makes either of them wait.
    ours, numpy = script(tmp_path, ""), script(tmp_path, "import numpy", "numpy_1st.py")
    pairs = [
        (seconds(*MAIN, "run", ours), seconds(sys.executable, numpy)) for _ in range(7)
    ]
    fastest, of_numpy = map(min, zip(*pairs, strict=True))
    assert fastest < of_numpy


def test_spawned_workers_know_the_plugin(tmp_path):
    data = write_data(tmp_path / "data")
    arguments = train_arguments(
        data, tmp_path / "exp", ["--dry_run=true", "--max_epoch=2"]
    )
    program = script(
        tmp_path,
        "import sys\n"
        "import torch.multiprocessing\n"
        "from espnet2.tasks.asr import ASRTask\n"
        "from espnet2.train.distributed_utils import resolve_distributed_mode\n"
        "if __name__ == '__main__':\n"
        "    args = ASRTask.get_parser().parse_args(sys.argv[1:])\n"
        "    resolve_distributed_mode(args)\n"
        "    args.version = 'test'\n"
        "    spawn = torch.multiprocessing.get_context('spawn')\n"
        "    worker = spawn.Process(target=ASRTask.main_worker, args=(args,))\n"
        "    worker.start()\n"
        "    worker.join()\n"
        "    sys.exit(worker.exitcode)\n",
    )
    result = run(program, *arguments)
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / "exp" / "config.yaml").exists()


def test_no_such_script(tmp_path):
    result = run(tmp_path / "missing.py")
    assert result.returncode == 2
    assert "no such script" in result.stderr and "Traceback" not in result.stderr


def test_nothing_to_run():
    result = run()
    assert result.returncode == 2 and result.stderr.startswith("usage:")


def test_bad_config_is_one_sentence(tmp_path):
    data = write_data(tmp_path / "data")
    arguments = train_arguments(data, tmp_path / "exp", ["--max_epoch=9"], sizes=[3, 7])
    result = run("-m", "espnet2.bin.asr_train", *arguments)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == (
        "espnet-dynsize: error: sizes=[3, 7] must end with the full size, 8: the "
        "number of layers."
    )
    assert "Traceback" not in result.stderr


def test_streaming_is_refused_for_encoders_that_do_not_stream(tmp_path):
    config = tmp_path / "config.yaml"
    module, option = "espnet2.bin.asr_inference_streaming", "--asr_train_config"
    config.write_text("encoder: dynsize_conformer\n")
    ended = run("-m", module, option, str(config))
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert "config.yaml: encoder=dynsize_conformer must be one that" in ended.stderr
    named = "contextual_block_conformer\nfrontend: default\nnormalize: "
    for prefix in ("encoder: ", "encoder: dynsize_"):
        config.write_text(f"{prefix}{named}global_mvn\n")
        refuse_streaming([option, str(config)])
    config.write_text(f"encoder: dynsize_{named}utterance_mvn\n")
    with pytest.raises(ConfigError, match="normalize=utterance_mvn must be global_"):
        refuse_streaming([option, str(config)])
    refuse_streaming([])
