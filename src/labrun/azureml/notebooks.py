"""Execution of notebooks, and installation of a kernel in which `azureml` can be imported."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from labrun.errors import ConfigError, RunFailedError
from labrun.runs import context

MODULE = "labrun.azureml.kernel"
NAME = "labrun-azureml"


def execute(path: Path, target: Path) -> int:
    """Execute all cells of a notebook in order and save it with its outputs.

    The working folder is the notebook's folder or, inside a run, the run's, so that its `outputs` are kept.

    Args:
        path: the notebook.
        target: the path to save it to, even if a cell fails.

    Returns:
        0.

    Raises:
        ConfigError: the file is not a notebook, or the packages to execute notebooks are not installed.
        RunFailedError: a cell failed; the message is its error.
    """
    try:
        import nbformat
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError
        from traitlets.config import Config
    except ImportError as error:
        raise ConfigError(
            f"notebooks need packages that are not installed ({error.name}): pip install nbclient ipykernel"
        ) from error
    logging.getLogger("traitlets").setLevel(logging.WARNING)
    try:
        notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not a notebook: {error}") from error
    with tempfile.TemporaryDirectory(dir=_short_folder()) as folder:
        _write_spec(Path(folder) / "kernels" / NAME)
        os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [folder, os.environ.get("JUPYTER_PATH")]))
        client = NotebookClient(
            notebook,
            kernel_name=NAME,
            timeout=None,
            resources={"metadata": {"path": str(Path.cwd() if context.current() else path.absolute().parent)}},
            # Use sockets in a folder of this user: other users of the machine could send code to a port. The path must
            # be absolute because the kernel has another working folder than this process.
            config=Config({"KernelManager": {"transport": "ipc", "ip": str(Path(folder, "kernel"))}}),
        )
        failed: list[int] = []
        client.on_cell_error = lambda cell, cell_index, execute_reply: failed.append(cell_index + 1)
        client.on_cell_executed = lambda cell, cell_index, execute_reply: _show(cell)
        try:
            client.execute()
        except CellExecutionError as error:
            which = f"cell {failed[-1]}" if failed else "a cell"
            raise RunFailedError(f"{path}: {which} failed: {error.ename}: {error.evalue}", str(error)) from error
        except RuntimeError as error:  # the kernel does not answer or has died
            raise RunFailedError(f"{path}: {error}") from error
        finally:
            nbformat.write(notebook, target)  # type: ignore[no-untyped-call]
    print(f"saved {target}")
    return 0


def _short_folder() -> str | None:
    """Return a short parent for temporary folders if needed: a socket's path is limited to 107 bytes."""
    return "/tmp" if len(os.fsencode(tempfile.gettempdir())) > 70 else None


def _show(cell: Any) -> None:
    """Print a cell's output when the cell has ended."""
    for output in cell.get("outputs", ()):
        text = output.get("text") or (output.get("data") or {}).get("text/plain") or ""
        sys.stdout.write(text if text.endswith("\n") or not text else f"{text}\n")
    sys.stdout.flush()


def _write_spec(folder: Path) -> None:
    folder.mkdir(parents=True)
    spec = {
        "argv": [sys.executable, "-m", MODULE, "-f", "{connection_file}"],
        "display_name": "Azure ML SDK v1 (labrun)",
        "language": "python",
        "metadata": {"debugger": True},
    }
    (folder / "kernel.json").write_text(json.dumps(spec, indent=1) + "\n", encoding="utf-8")


def install_kernel(name: str) -> str:
    """Install a kernel for this user in which `azureml` can be imported; return a message with its folder.

    Raises:
        ConfigError: a package is missing, the name is invalid, or Jupyter's folder is not writable.
    """
    try:
        import ipykernel  # noqa: F401
        from jupyter_client.kernelspec import KernelSpecManager
    except ImportError as error:
        raise ConfigError(
            f"a kernel needs packages that are not installed ({error.name}): pip install ipykernel"
        ) from error
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):
        raise ConfigError(f"lab azureml kernel: --name {name!r}: use ASCII letters, digits, '-', '.' and '_'")
    with tempfile.TemporaryDirectory() as folder:
        _write_spec(Path(folder) / name)
        try:
            kernel_folder = KernelSpecManager().install_kernel_spec(os.path.join(folder, name), name, user=True)
        except OSError as error:
            raise ConfigError(f"the kernel {name} cannot be installed: {error}") from error
    return f'installed the kernel {name} in {kernel_folder}: choose "Azure ML SDK v1 (labrun)" in Jupyter'
