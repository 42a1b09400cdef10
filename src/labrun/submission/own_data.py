"""A program that reads data produced by the user's own code, and answers with its digests.

`labrun.submission.resume` runs this file by its path, so that labrun's modules, too, come from the import path that the
program is given: that of the frozen code. Until then it imports the standard library only.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import importlib.util
import json
import os
import signal
import sys
import tempfile
import traceback
from typing import Any

READER, LOADERS = "reader", "loaders"
"""Kinds of data: a data set for a reader, or a data module that makes its own loaders."""
NETWORKS = "labrun.tasks.networks"
MODULES = {
    READER: ("labrun.data.reader", "labrun.data.digests"),
    LOADERS: ("labrun.execute", f"{NETWORKS}.batch_sources", f"{NETWORKS}.own_loaders"),
}
"""Modules that the kinds need, imported once for all questions."""


def main() -> None:
    """Answer the questions from standard input, each in a fork, so that no data set's code affects another's."""
    answers_file = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the code prints is not an answer
    sys.path[:], limit_s, questions = json.load(sys.stdin)
    for name in dict.fromkeys(name for kind, _ in questions for name in MODULES[kind]):
        with contextlib.suppress(ModuleNotFoundError):  # not in code that was frozen earlier; see `_load`
            importlib.import_module(name)
    gc.freeze()
    answers = [_answer_in_fork(kind, given, limit_s) for kind, given in questions]
    json.dump(answers, answers_file)
    answers_file.close()
    os._exit(0)


def _answer_in_fork(kind: str, given: Any, limit_s: int) -> tuple[int, str, list[str]]:
    """Return the fork's exit code (minus the signal's number if one ended it), its answer, and its last line."""
    with tempfile.TemporaryFile("w+") as answer, tempfile.TemporaryFile("w+", errors="replace") as output:
        child = os.fork()
        if child == 0:
            os.dup2(output.fileno(), 2)
            os.dup2(2, 1)
            signal.alarm(limit_s)  # also ends code that holds the interpreter
            failed = 1
            try:
                json.dump(_read(given) if kind == READER else _load(given), answer)
                failed = 0
            except BaseException:  # noqa: BLE001 - its last line is the answer
                traceback.print_exc()
            atexit._run_exitfuncs()  # the user's; cleaning up PyTorch's modules would take seconds
            for stream in (answer, sys.stdout, sys.stderr):
                stream.flush()
            os._exit(failed)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        answer.seek(0)
        output.seek(0)
        return code, answer.read(), output.read().strip().splitlines()[-1:]


def _read(given: Any) -> dict[str, Any]:
    """Return the digests of a data set: its config and its mounted folder are given."""
    import pathlib

    from labrun.data import reader
    from labrun.data.digests import manifest_digest

    dataset, place = given
    made = reader.read(dataset, pathlib.Path(place), tables=True, sparse=True)
    return {"digest": manifest_digest(reader.manifest(made.files)), "content": made.content}


def _load(given: Any) -> dict[str, Any]:
    """Return the digest of a data module's data: the nodes of the run's config are given."""
    from labrun import execute
    from labrun.config.schema import Config

    # Without `tasks.networks` in code that was frozen before that package existed.
    room = NETWORKS if importlib.util.find_spec(NETWORKS) else "labrun.tasks"
    sources, loaders = (importlib.import_module(f"{room}.{name}") for name in ("batch_sources", "own_loaders"))
    kind = sources.ModuleBatches if room == NETWORKS else sources.ModuleFeed
    config, inputs = execute.mount_inputs(Config(given))
    batches = kind(sources.make_module(config.dataset), str(config.dataset["name"]))
    return {"digest": loaders.described(Config(given), batches, inputs).digest}


if __name__ == "__main__":
    main()
