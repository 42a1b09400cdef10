"""Functions of a script keep the names of their source files when pickled for another process."""

from __future__ import annotations

import pickle
import traceback
import types
from typing import Any

import cloudpickle.cloudpickle
import pytest

from labrun.backends.local import pickling


@pytest.mark.parametrize("forgets", [False, True])
def test_tracebacks_of_a_pickled_function_name_its_file(monkeypatch: pytest.MonkeyPatch, forgets: bool) -> None:
    """With the installed cloudpickle, and with what versions since 3.1.3 do."""
    reduce = cloudpickle.cloudpickle._code_reduce

    def forgetting(code: types.CodeType) -> Any:
        kind, arguments = reduce(code)
        return kind, tuple(pickling.NAMELESS if one == code.co_filename else one for one in arguments)

    monkeypatch.setattr(pickling, "_code_reduce", forgetting if forgets else reduce)
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(compile("def outer():\n    return (lambda: 1 / 0)()\n", "/a/train.py", "exec"), scope)  # noqa: S102
    try:
        pickle.loads(pickling.dumps(scope["outer"]))()
    except ZeroDivisionError as error:
        files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    assert files[1:] == ["/a/train.py", "/a/train.py"]
