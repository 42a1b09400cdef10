"""Run one script as `python script.py` would, with `azureml` importable and removed library calls restored.

The script's interpreter starts this as `python runner.py script.py arguments...`. It may lack labrun and may be as old
as Python 3.6, so this file must be valid Python 3.6: its annotations are plain names.
"""

import builtins
import importlib.machinery
import importlib.util
import json
import os
import sys
from types import ModuleType
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
SITE = os.path.join(HERE, "site")
STANDALONE = os.path.join(os.path.dirname(HERE), "standalone")

USAGE = """usage: python -m labrun.compat.azureml SCRIPT [ARGUMENTS ...]

Runs a script that imports azureml.core by hand, without a run: it prints metrics and records nothing.
    python -m labrun.compat.azureml src/train.py --data_path ./data
In a run, with everything recorded:
    labrun experiment=script script.path=src/train.py script.azureml=true script.arguments.data_path=./data
"""


def main(arguments: "list[str]") -> None:
    """Run the script given by the first argument, with the others as its arguments.

    Raises:
        SystemExit: 2 without a script; 1 if the script called `run.fail()`; otherwise the script's own exit.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stderr.write(USAGE)
        raise SystemExit(0 if arguments else 2)
    script = arguments[0]
    if not os.path.isfile(script):
        what = "is a folder" if os.path.isdir(script) else "does not exist"
        sys.stderr.write(f"labrun: the script {script} {what} (the working folder is {os.getcwd()}): give a .py file\n")
        raise SystemExit(2)
    _prepare_path(script)
    from labrun.compat.azureml import finder, legacy

    legacy.install()
    finder.install()
    sys.argv = arguments
    sys.excepthook = _show_error
    try:
        run_as_main(script)
    except SystemExit as end:
        if end.code in (None, 0):
            _exit_if_failed()
        raise
    _exit_if_failed()


def run_as_main(script: str) -> None:
    """Execute a script in a new module `__main__`.

    Unlike with `runpy`, the module stays in place afterwards: the script's threads and exit handlers still use it, and
    so do the workers that `multiprocessing` spawns from it.
    """
    path = os.path.abspath(script)
    module = ModuleType("__main__")
    module.__file__ = path
    module.__loader__ = importlib.machinery.SourceFileLoader("__main__", path)
    module.__dict__.update(__builtins__=builtins, __cached__=None)
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    sys.modules["__main__"] = module
    exec(code, module.__dict__)  # noqa: S102 (running the script is the purpose)


def _prepare_path(script: str) -> None:
    """Put the script's folder first on the path, as Python does, then `azureml`; child processes also get `azureml`."""
    if sys.path and os.path.abspath(sys.path[0] or os.curdir) == HERE:
        del sys.path[0]
    added = [SITE]
    if importlib.util.find_spec("labrun") is None:
        added.append(STANDALONE)
    sys.path[:0] = [os.path.dirname(os.path.realpath(script)), *added]
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([*added, before] if before else added)


def _show_error(kind: Any, error: BaseException, trace: Any) -> None:
    """Print the script's traceback without labrun's frames above its first line."""
    inner = trace
    while inner is not None and inner.tb_frame.f_code is not run_as_main.__code__:
        inner = inner.tb_next
    if inner is not None:
        # The hook prints the error's own traceback and ignores the argument.
        error = error.with_traceback(inner.tb_next)
    sys.__excepthook__(kind, error, error.__traceback__)


def _exit_if_failed() -> None:
    """Exit with code 1 if the script or one of its processes called `run.fail()` in this attempt."""
    run_dir = os.environ.get("LABRUN_RUN_DIR")
    if not run_dir:
        return
    try:
        with open(os.path.join(run_dir, "logs", "azureml", "failed.json"), encoding="utf-8") as file:
            failure = json.load(file)
    except (OSError, ValueError):
        return
    if str(failure.get("attempt")) == os.environ.get("LABRUN_ATTEMPT", "1"):
        sys.stdout.flush()
        sys.stderr.write(f"{failure.get('message')}\n")
        raise SystemExit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
