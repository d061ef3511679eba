"""Run a module or a script like `python` does, with the plugin known to ESPnet."""

import importlib.abc
import importlib.util
import runpy
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

TASK_MODULE = "espnet2.tasks.asr"
USAGE = "usage: espnet-dynsize run -m MODULE [ARG …] | SCRIPT.py [ARG …]"


class RegisterAfterImport(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Registers the plugin when, and only when, ESPnet's ASR task is imported.

    So programs that do not need it start as fast as without the plugin.
    """

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ):
        if name != TASK_MODULE:
            return None
        # Once: the import below must find ESPnet's module itself.
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None:
            self._stock, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec):
        return self._stock.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__.loader = module.__loader__ = self._stock
        self._stock.exec_module(module)
        import espnet_dynsize

        espnet_dynsize.register()


def run(argv: list[str]) -> int:
    """Run `-m MODULE ARG …` or `SCRIPT.py ARG …`; returns the exit code.

    The program's own `sys.exit` passes through.
    """
    if not argv or argv[0] in ("-h", "--help") or argv == ["-m"]:
        print(USAGE, file=sys.stderr)
        return 0 if argv[:1] in (["-h"], ["--help"]) else 2
    if TASK_MODULE in sys.modules:
        import espnet_dynsize

        espnet_dynsize.register()
    else:
        sys.meta_path.insert(0, RegisterAfterImport())
    if argv[0] == "-m":
        return _run_module(argv[1], argv[2:])
    return _run_script(argv[0], argv[1:])


def _run_module(module: str, arguments: list[str]) -> int:
    sys.argv = [module, *arguments]
    sys.path.insert(0, "")  # as `python -m` does
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0


def _run_script(script: str, arguments: list[str]) -> int:
    if not Path(script).is_file():
        print(f"espnet-dynsize run: no such script: {script}", file=sys.stderr)
        return 2
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).resolve().parent))
    runpy.run_path(script, run_name="__main__")
    return 0
