"""Run a module or a script like `python` does, with the plugin known to ESPnet."""

import argparse
import importlib
import importlib.abc
import importlib.util
import runpy
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

# ESPnet's modules of tasks → the plugin's, which register themselves
TASKS = {
    "espnet2.tasks.asr": "espnet_dynsize.train.task",
    "espnet2.tasks.asr_transducer": "espnet_dynsize.train.transducer_task",
}
STREAMING_MODULE = "espnet2.bin.asr_inference_streaming"
TRANSDUCER_MODULE = "espnet2.bin.asr_transducer_inference"
USAGE = "usage: espnet-dynsize run -m MODULE [ARG …] | SCRIPT.py [ARG …]"


class RegisterAfterImport(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Registers the plugin when, and only when, ESPnet's ASR task is imported.

    So programs that do not need it start as fast as without the plugin.
    """

    def __init__(self) -> None:
        self._stock: dict[str, importlib.abc.Loader] = {}

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        known = {*TASKS, *TASKS.values()}
        if name not in known or name in self._stock:
            return None
        # Once: the search below must find the module itself.
        self._stock[name] = None
        spec = importlib.util.find_spec(name)
        if spec is not None:
            self._stock[name], spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._stock[spec.name].create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        loader = self._stock[module.__name__]
        module.__spec__.loader = module.__loader__ = loader
        loader.exec_module(module)
        # A script that imports the plugin's task imports ESPnet's halfway through it:
        # then the plugin registers when it is whole.
        name = TASKS.get(module.__name__, module.__name__)
        plugin = sys.modules.get(name)
        if plugin is None or hasattr(plugin, "register"):
            importlib.import_module(name).register()


def run(argv: list[str]) -> int:
    """Run `-m MODULE ARG …` or `SCRIPT.py ARG …`; returns the exit code.

    The program's own `sys.exit` passes through.
    """
    if not argv or argv[0] in ("-h", "--help") or argv == ["-m"]:
        print(USAGE, file=sys.stderr)
        return 0 if argv[:1] in (["-h"], ["--help"]) else 2
    for name, plugin in TASKS.items():
        if name in sys.modules:
            importlib.import_module(plugin).register()
    sys.meta_path.insert(0, RegisterAfterImport())
    if argv[0] == "-m":
        return _run_module(argv[1], argv[2:])
    return _run_script(argv[0], argv[1:])


def _run_module(module: str, arguments: list[str]) -> int:
    if module == STREAMING_MODULE:
        refuse_streaming(arguments)
    if module == TRANSDUCER_MODULE:
        mend_streaming(arguments)
    sys.argv = [module, *arguments]
    sys.path.insert(0, "")  # as `python -m` does
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0


def refuse_streaming(arguments: list[str]) -> None:
    """Refuse to stream with an encoder that does not.

    ESPnet asserts it without a word.

    Raises:
        ConfigError: it is one of the plugin's that does not stream, or see
            `check_streaming`.
    """
    config_file = _text_of("--asr_train_config", arguments)
    config = _plugin_config(config_file)
    if config:
        # First of all, as it is imported when ESPnet's task is.
        importlib.import_module(TASKS["espnet2.tasks.asr"])
        from espnet_dynsize.train.streaming import check_streams

        check_streams(config_file, config)


def mend_streaming(arguments: list[str]) -> None:
    """Let ESPnet's transducer script make the features of whole utterances of chunks.

    Raises:
        ConfigError: it is to stream with a model of the plugin's that cannot, or not to
            stream in words that ESPnet takes for true.
    """
    from espnet_dynsize.core.errors import ConfigError

    text = _text_of("--streaming", arguments)
    if str(text).lower() not in ("none", "true", "1"):
        raise ConfigError(
            f"--streaming={text} must be true, or left out: ESPnet takes any text for "
            "true (a decoding config may have streaming: false)."
        )
    importlib.import_module(TASKS["espnet2.tasks.asr_transducer"])
    # Options may be in the decoding config: as the script reads them
    parser = importlib.import_module(TRANSDUCER_MODULE).get_parser()
    given = parser.parse_known_args(arguments)[0]
    del sys.modules[TRANSDUCER_MODULE]  # or `runpy` would warn
    config = _plugin_config(given.asr_train_config) if given.streaming else {}
    if not config:
        return
    from espnet2.asr_transducer.frontend import online_audio_processor

    from espnet_dynsize.deploy.decoding import check_streaming_search
    from espnet_dynsize.deploy.online import OnlineAudio
    from espnet_dynsize.train.streaming import check_chunked

    check_chunked(given.asr_train_config, config)
    check_streaming_search(vars(given))
    # The script imports it when it is run.
    online_audio_processor.OnlineAudioProcessor = OnlineAudio


def _text_of(option: str, arguments: list[str]) -> str | None:
    """What follows an option; None where it is not given."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(option, dest="text")
    return parser.parse_known_args(arguments)[0].text


def _plugin_config(path: str | None) -> dict:
    """A model's config, if it is one of the plugin's; else empty."""
    # No other program needs them, and all start with this module.
    from espnet_dynsize.core.keys import is_plugin
    from espnet_dynsize.core.yaml_base import read_config

    if path is None or not Path(path).is_file():
        return {}
    config = read_config(Path(path))
    return config if is_plugin(config) else {}


def _run_script(script: str, arguments: list[str]) -> int:
    if not Path(script).is_file():
        print(f"espnet-dynsize run: no such script: {script}", file=sys.stderr)
        return 2
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).resolve().parent))
    runpy.run_path(script, run_name="__main__")
    return 0
