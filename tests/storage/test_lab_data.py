"""`lab data` on real servers: regular use, kill -9 in the middle of large files, and no secrets in any output."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from conftest import Command
from forked_lab import ForkedLab, Forks, forks_of
from helpers import PLAIN, call_here, run_labrun, start_lab, wait_for
from labrun import cli
from labrun.data import stores
from servers import AZURITE_KEY, Server

MB = 2**20


@pytest.fixture
def source(workspace: Path) -> Path:
    folder = workspace / "source"
    (folder / "sub").mkdir(parents=True)
    for number in range(8):
        (folder / "sub" / f"{number}.bin").write_bytes(os.urandom(1000 + number))
    (folder / "ä name.txt").write_text("text")
    return folder


class Lab:
    """`lab data` against one server, in this process."""

    def __init__(self, server: Server, workspace: Path) -> None:
        self.server, self.workspace = server, workspace
        self.options = ["--datastore", server.kind, *(part for o in server.overrides for part in ("--set", o))]

    def __call__(self, verb: str, *arguments: str, code: int = 0) -> str:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            ended = call_here(cli.main, "lab", "data", verb, *arguments, *self.options)
        assert ended == code, out.getvalue() + err.getvalue()
        assert "Traceback" not in err.getvalue() and AZURITE_KEY not in out.getvalue() + err.getvalue()
        return out.getvalue() if code == 0 else err.getvalue()


Start = Callable[..., ForkedLab]


@pytest.fixture(scope="module")
def interpreters() -> Iterator[Callable[[Server], Forks]]:
    """The interpreter whose forks are the commands of a type of datastore."""
    with contextlib.ExitStack() as stack:
        found: dict[str, Forks] = {}

        def of(server: Server) -> Forks:
            if server.kind not in found:
                found[server.kind] = stack.enter_context(forks_of(server))
            return found[server.kind]

        yield of


@pytest.fixture
def start(interpreters: Callable[[Server], Forks]) -> Start:
    """Start `lab data` in a separate process, for a datastore, with a verb and its arguments."""

    def begin(data: Lab, verb: str, *arguments: str, stalled: str | None = None) -> ForkedLab:
        words = ["data", verb, *arguments, *data.options]
        return interpreters(data.server).start(data.workspace, *words, stalled=stalled)

    return begin


@pytest.fixture
def data(server: Server, workspace: Path) -> Lab:
    return Lab(server, workspace)


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_data_are_sent_listed_verified_fetched_and_removed(data: Lab, source: Path, workspace: Path) -> None:
    """Over 15 s: a dozen commands, each of which calls a server."""
    said = data("upload", "source", "--name", "mine")
    assert re.search(r"^uploaded mine/sub/3\.bin \(1003 bytes\), \d of 9$", said, re.MULTILINE)
    assert re.search(r"^9 files, 7\.\d KB in .* to \w+: .*mine$", said, re.MULTILINE)
    assert "registered mine version 1 (" in said and "${mount:mine@1}" in said
    again = data("upload", "source", "--name", "mine")
    assert "9 of 9 were already there" in again and "already registered: mine version 1" in again
    assert re.search(r"^mine +1 +[0-9a-f]{12} +9 +7\.\d KB ", data("ls"), re.MULTILINE)
    assert data("ls", "/").splitlines() == ["mine/"] and data("ls", "mine/sub").split()[:2] == ["0.bin", "1.bin"]
    shown = data("show", "mine@1")
    assert "sub/7.bin" in shown and "versions    1 (" in shown and "read by 0 runs" in shown
    assert "as it was registered" in data("verify", "mine")
    assert "9 files" in data("download", "mine", "back") and content(workspace / "back") == content(source)
    assert "9 of 9 were already there" in data("download", "mine", "back")
    data("download", "mine/sub/3.bin", "three.bin")
    assert (workspace / "three.bin").read_bytes() == (source / "sub/3.bin").read_bytes()
    assert "its files stay" in data("rm", "mine", "--yes") and "no assets are registered" in data("ls")
    assert "removed 9 files" in data("rm", "mine", "--yes")
    assert "there is nothing in" in data("ls", "mine", code=2)


def test_mistakes_with_data_are_refused(data: Lab, source: Path, workspace: Path) -> None:
    assert "source-x does not exist" in data("upload", "source-x", code=2)
    (workspace / "nothing").mkdir()
    assert "holds no files" in data("upload", "nothing", code=2)
    assert "is not a valid asset name" in data("upload", "source", "--name", "a/b", code=2)
    assert "without '..'" in data("upload", "source", "../../x", code=2)
    data("upload", "source", "--name", "mine")
    (source / "sub/1.bin").write_bytes(b"other")
    refused = data("upload", "source", "--name", "mine", code=2)
    assert "already has 1 file with different content" in refused and "--overwrite" in refused
    assert "registered mine version 2" in data("upload", "source", "--name", "mine", "--overwrite")
    assert "has other content" in data("verify", "mine@1", code=2)
    assert "no asset 'mein' is registered" in data("show", "mein", code=2)
    assert "has no version 9" in data("show", "mine@9", code=2)
    assert "use --yes" in data("rm", "mine", code=2)
    assert "belong to asset mine version 2" in data("rm", "mine@1", "--files", "--yes", code=2)
    (workspace / "back").mkdir()
    (workspace / "back/ä name.txt").write_text("my own")
    assert "Nothing was fetched" in data("download", "mine", "back", code=2)
    assert content(workspace / "back") == {"ä name.txt": b"my own"}
    data("download", "mine", "back", "--overwrite")
    assert content(workspace / "back") == content(source)


def test_mistakes_in_the_settings_of_a_datastore_are_refused(
    workspace: Path, lab_here: Command, labrun_here: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: str) -> str:
        done = lab_here("data", "ls", *arguments)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        return done.stderr

    assert "there is no datastore 'azure'. Did you mean 'azure_blob'?" in refused("--datastore", "azure")
    assert "is not a key=value of datastore 'local'. Its keys: " in refused("--set", "rot=x")
    said = refused("--datastore", "azure_blob", "--set", "account_key=abcdef0123456789")
    assert "is a secret in plain text" in said and "abcdef" not in said
    said = refused("--datastore", "s3", "--set", "secret=${oc.env:NO_SUCH,abcdef0123456789}")
    assert "is a secret in plain text" in said and "abcdef" not in said
    assert "http requires you to set it" in refused("--datastore", "http").replace(".yaml", "")
    said = refused("--datastore", "sftp", "--set", "host=127.0.0.1", "--set", "port=1", "--set", "root=/x")
    assert "datastore 'sftp' (SFTPFileSystem): cannot connect: " in said and "Check the address" in said
    nobody = "DefaultEndpointsProtocol=http;AccountName=a;AccountKey=d3Jvbmc=;BlobEndpoint=http://127.0.0.1:1/a;"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", nobody)
    said = refused("--datastore", "azure_blob")
    assert "cannot reach its server: ConnectionRefusedError" in said
    (workspace / "conf/datastore").mkdir(parents=True)
    (workspace / "conf/datastore/odd.yaml").write_text("_target_: nowhere.FileSystem\nname: odd\nroot: x\n")
    assert "the package 'nowhere' is not installed" in refused("--datastore", "odd")
    (workspace / "conf/datastore/odd.yaml").write_text(
        "_target_: nowhere.FileSystem\nname: odd\nroot: x\napi_token: abc\n"
    )
    assert "datastore.api_token is a secret" in refused("--datastore", "odd")
    secret = "pwd: PLANTED\nauth: [user, PLANTED]\nopts:\n  - password: PLANTED\naddress: http://PLANTED@127.0.0.1/?sig=PLANTED\n"
    (workspace / "conf/datastore/odd.yaml").write_text(f"_target_: nowhere.FileSystem\nname: odd\nroot: x\n{secret}")
    said = refused("--datastore", "odd")
    assert (
        all(key in said for key in ("odd.pwd", "auth[1]", "opts[0].password", "address holds")[1:])
        and "PLANTED" not in said
    )
    done = labrun_here("datastore=odd")
    assert done.returncode == 2 and "PLANTED" not in done.stdout + done.stderr
    assert not [p for p in workspace.rglob("outputs/**/*") if p.is_file() and b"PLANTED" in p.read_bytes()]
    (workspace / "conf/datastore/memory.yaml").write_text(
        "_target_: fsspec.implementations.memory.MemoryFileSystem\nname: memory\nroot: /x\n"
    )
    done = lab_here("data", "upload", "conf", "--datastore", "memory")
    assert done.returncode == 0 and "uploaded conf/datastore/odd.yaml" in done.stdout, done.stderr


WITHOUT = """
import os, sys
import hydra
from labrun.cli import data, main
for name, package in (word.split("=") for word in sys.argv[1:]):
    child = os.fork()
    if child == 0:
        sys.modules[package] = None
        sys.argv[1:] = ["data", "ls", "--datastore", name]
        main()
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Lists each datastore in a fork in which its package cannot be imported, and prints the exit codes."""


def test_a_missing_package_is_reported_with_its_install_line(workspace: Path) -> None:
    words = ["azure_blob=adlfs", "s3=s3fs", "sftp=paramiko"]
    done = subprocess.run([sys.executable, "-c", WITHOUT, *words], cwd=workspace, capture_output=True, text=True)
    assert done.stdout.split() == ["2"] * 3, done.stdout + done.stderr
    assert re.findall(r"uv sync --extra (\w+)", done.stderr) == ["azure", "s3", "sftp"], done.stderr


def test_a_terminal_shows_the_progress_of_a_transfer(azure: Server, source: Path, workspace: Path) -> None:
    master, slave = pty.openpty()
    arguments = Lab(azure, workspace).options
    terminal = {"TERM": "xterm", "COLUMNS": "120"}
    process = start_lab(
        "data",
        "upload",
        "source",
        *arguments,
        cwd=workspace,
        environment=terminal,
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):
        while chunk := os.read(master, 65536):
            shown += chunk
    assert process.wait(60) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert "9 of 9" in text and "uploaded source/sub/0.bin" in text and re.search(r"\d+ [KM]?i?B/s|[kK]B/s", text)


def test_an_upload_of_large_files_resumes_after_kill_9(data: Lab, start: Start, workspace: Path) -> None:
    """Four files and a large one: complete files are not sent again, and partial ones never appear."""
    folder = workspace / "large"
    folder.mkdir()
    block = os.urandom(MB)
    for number in range(4):
        (folder / f"{number}.bin").write_bytes(bytes([number]) + block[1:])
    with open(folder / "big.bin", "wb") as file:
        for place in range(128):
            file.write(place.to_bytes(2, "big") + block[2:])
    store = stores.make(data.server.node)
    sizes = {f"large/{p.name}": p.stat().st_size for p in folder.iterdir()}
    process = start(data, "upload", "large", "--workers", "2", stalled="large/big.bin")
    wait_for(lambda: len(store.files("large")) >= 2 or process.poll() is not None, 100)
    process.kill()
    process.communicate()
    there = {name: found.size for name, found in store.files("large").items()}
    assert 2 <= len(there) < 5 and there.items() <= sizes.items(), "files in the store are complete"
    process = start(data, "upload", "large", "--name", "large", "--workers", "4")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    used = int(err.split("PEAK ")[1])
    assert f"; {len(there)} of 5 were already there" in out
    assert {name: found.size for name, found in store.files("large").items()} == sizes
    assert used < 200 * MB, f"{used / MB:.0f} MB"
    process = start(data, "download", "large", "back", "--workers", "2", stalled="large/big.bin")
    wait_for(lambda: len(list((workspace / "back").glob("*.bin"))) >= 1 or process.poll() is not None, 100)
    process.kill()
    process.communicate()
    come = sorted(p.name for p in (workspace / "back").glob("*.bin"))
    assert 0 < len(come) < 5
    said = data("download", "large", "back")
    assert f"; {len(come)} of 5 were already there" in said
    assert all((workspace / "back" / p.name).read_bytes() == p.read_bytes() for p in folder.iterdir())
    if data.server.served is not None:
        left = [p.name for p in data.server.served.rglob("*labrun-part")]
        assert not any(name in " ".join(store.files()) for name in left)


def test_ctrl_c_ends_an_upload_at_once(azure: Server, start: Start, workspace: Path) -> None:
    with open(workspace / "big.bin", "wb") as file:
        file.truncate(400 * MB)
    process = start(Lab(azure, workspace), "upload", "big.bin")
    wait_for(lambda: any(one.raddr for one in psutil.Process(process.pid).net_connections()), 60)
    os.kill(process.pid, signal.SIGINT)
    began = time.monotonic()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and time.monotonic() - began < 8 and "Traceback" not in err
    assert stores.make(azure.node).files() == {}


def test_lab_data_samples_describes_a_table(data: Lab, workspace: Path) -> None:
    from sklearn.datasets import load_iris

    table = load_iris(as_frame=True).frame
    table.to_csv(workspace / "iris.csv", index=False)
    data("upload", "iris.csv", "iris", "--name", "iris")
    said = data("samples", "iris", "-n", "5")
    assert "120 train, 30 test" in said and "4 (features)" in said and "40 train, 10 test" in said
    assert "0.1 to 7.9" in said and not list(workspace.glob("*.png"))
    assert "neither a data set nor an asset 'isir'" in data("samples", "isir", code=2)


def test_lab_data_samples_draws_images(workspace: Path, lab_here: Command, real_data: Path) -> None:
    done = lab_here("data", "samples", "cifar10", "-n", "40", "--seed", "1", "--set", f"root={real_data}")
    assert done.returncode == 0, done.stderr
    assert "50,000 train, 10,000 test" in done.stdout and "airplane    5,000 train" in done.stdout
    assert "40 samples: cifar10-samples.png" in done.stdout
    from PIL import Image

    with Image.open(workspace / "cifar10-samples.png") as picture:
        assert picture.width > 800 and len(picture.getcolors(10**6) or []) > 500


def test_runs_with_a_datastore_leave_no_secret(azure: Server, workspace: Path, labrun_here: Command) -> None:
    """The key is in the environment. One run reads from the store, another is refused by it."""
    import numpy as np

    np.savez(workspace / "a.npz", X=np.random.default_rng(0).random((40, 3)), y=np.tile([0, 1], 20))
    Lab(azure, workspace)("upload", "a.npz", "a", "--name", "mine")
    where = ["dataset=npz", "dataset.path=a.npz", "datastore=azure_blob", f"datastore.root={azure.node['root']}"]
    commands = [
        [*where, "dataset.asset=mine"],
        ["-m", *where, "dataset.asset=mine", "model.regularization=0.1,1"],
        [*where, "dataset.asset=absent"],
        [*where, "dataset.asset=mine", "datastore.account_key=planted-literal-key"],
        [*where, "dataset.asset=mine", "datastore.sas_token=${oc.env:NOT_SET,planted-literal-sas}"],
    ]
    codes, printed = [], ""
    for number, command in enumerate(commands):
        if number < 2:
            done = run_labrun(*command, *(PLAIN[1:] if "-m" in command else ()), cwd=workspace, timeout=200)
        else:
            done = labrun_here(*command)
        codes.append(done.returncode)
        printed += done.stdout + done.stderr
    assert codes == [0, 0, 2, 2, 2], printed
    assert (
        "no asset 'absent' is registered in datastore 'azure_blob'" in printed and printed.count("in plain text") == 2
    )
    assert "planted-literal" not in printed.replace("planted-literal", "", printed.count("overrides: ["))
    left = [path for path in workspace.rglob("*") if path.is_file()]
    assert len(left) > 30
    for planted in (AZURITE_KEY, "planted-literal"):
        assert not [path for path in left if planted.encode() in path.read_bytes()] and AZURITE_KEY not in printed
    record = json.loads(next(workspace.glob("outputs/*/*/run.json")).read_text())
    assert record["config"]["datastore"]["connection_string"] == "${oc.env:AZURE_STORAGE_CONNECTION_STRING,null}"
    assert record["data"][0]["asset"] == "mine" and record["data"][0]["number"] == 1


def test_of_two_conflicting_uploads_one_is_refused(data: Lab, start: Start, workspace: Path) -> None:
    """Of two concurrent uploads with different files, one is refused; equal content becomes one version."""
    for number in range(2):
        (workspace / f"p{number}").mkdir()
        (workspace / f"p{number}" / "f").write_text(str(number))
    people = [start(data, "upload", f"p{number}", "clash", "--name", "clash") for number in range(2)]
    ended = [(*person.communicate(), person.returncode) for person in people]
    assert sorted(code for _, _, code in ended) == [0, 2], ended
    assert "as it was registered" in data("verify", "clash")
    same = [start(data, "upload", "p0", "same", "--name", "same") for _ in range(2)]
    ended = [(*person.communicate(), person.returncode) for person in same]
    assert [code for _, _, code in ended] == [0, 0], ended
    assert "versions    1 (" in (shown := data("show", "same")) and ", 2 (" not in shown


def test_links_and_names_that_cannot_be_stored_are_refused(azure: Server, workspace: Path) -> None:
    for name in ("back\\slash", "line\nend"):
        folder = workspace / f"f{len(name)}{name[0]}"
        folder.mkdir()
        (folder / name).write_text("x")
        (folder / "fine").write_text("x")
        assert "nothing was sent" in Lab(azure, workspace)("upload", str(folder), code=2)
    (workspace / "loop/in").mkdir(parents=True)
    (workspace / "loop/in/up").symlink_to("..")
    (workspace / "loop/in/x").write_text("x")
    assert "loop/in/up is a link to" in Lab(azure, workspace)("upload", "loop", code=2)
    assert "has no container" in Lab(azure, workspace)("ls", code=2)


def test_a_table_is_read_from_a_mounted_path(azure: Server, workspace: Path, labrun_here: Command) -> None:
    from sklearn.datasets import load_iris

    load_iris(as_frame=True).frame.to_csv(workspace / "iris.csv", index=False)
    data = Lab(azure, workspace)
    data("upload", "iris.csv", "tables", "--name", "tables")
    where = ["dataset=csv", "datastore=azure_blob", f"datastore.root={azure.node['root']}", *PLAIN[:2]]
    for path in ("${mount:tables}/iris.csv", "${mount:tables/iris.csv}"):
        done = run_labrun(f"dataset.path={path}", *where, cwd=workspace)
        assert done.returncode == 0 and "120 train, 30 test" in done.stdout, done.stderr
    done = labrun_here("dataset.path=${mount:tables@9}/iris.csv", *where)
    assert done.returncode == 2 and "has no version 9" in done.stderr


def test_a_sweep_over_a_mount_is_resumed(azure: Server, workspace: Path) -> None:
    from sklearn.datasets import load_iris

    load_iris(as_frame=True).frame.to_csv(workspace / "iris.csv", index=False)
    Lab(azure, workspace)("upload", "iris.csv", "tables", "--name", "tables")
    where = ["dataset=csv", "datastore=azure_blob", f"datastore.root={azure.node['root']}", *PLAIN[:2]]
    paths = "dataset.path=${mount:tables}/iris.csv,iris.csv"
    sweep = ["-m", paths, "dataset.asset=tables", "compute=inline", *where]
    done = run_labrun(*sweep, "model.regularization=0.1", cwd=workspace)
    assert done.returncode == 0, done.stderr
    done = run_labrun(*sweep, "model.regularization=0.1,1", "sweep.resume=last", cwd=workspace)
    assert done.returncode == 0 and "2 of 4 runs are done" in done.stdout, done.stdout + done.stderr
    done = run_labrun("task=evaluate", "from=last", *PLAIN[:2], cwd=workspace)
    assert done.returncode == 0 and "Mounting input 'tables' from datastore 'azure_blob'" in done.stdout, done.stderr
