"""The next command notices changes since the warm interpreter's imports, and starts cold."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import labrun
from helpers import wait_for
from labrun.warm import client, identity, wire
from labrun.warm.fingerprint import CLOCK_S
from warm_bench import Bench


def edit(bench: Bench) -> None:
    (bench.site / "lib.py").write_text("VERSION = 2\n")


def replace_by_an_older_file(bench: Bench) -> None:
    new = bench.folder / "other.py"
    new.write_text("VERSION = 2\n")
    os.utime(new, (1e9, 1e9))
    new.rename(bench.site / "lib.py")


def install_a_package(bench: Bench) -> None:
    (bench.site / "other-1.0.dist-info").mkdir()


def upgrade_a_package(bench: Bench) -> None:
    (bench.site / "lib-1.0.dist-info" / "RECORD").write_text("lib.py,sha256=other,12\n")


def add_a_path_file(bench: Bench) -> None:
    (bench.site / "more.pth").write_text("/somewhere\n")


def hide_a_module(bench: Bench) -> None:
    (bench.site / "lib").mkdir()
    (bench.site / "lib" / "__init__.py").write_text("VERSION = 2\n")


@pytest.mark.parametrize(
    "change", [edit, replace_by_an_older_file, install_a_package, upgrade_a_package, add_a_path_file, hide_a_module]
)
def test_a_change_on_the_disk_is_seen_at_once(bench: Bench, change: Callable[[Bench], None]) -> None:
    (bench.site / "lib-1.0.dist-info").mkdir()
    (bench.site / "lib-1.0.dist-info" / "RECORD").write_text("lib.py,sha256=one,12\n")
    bench.start_server()
    assert bench.told()["warm"]
    change(bench)
    told = bench.told()
    assert not told["warm"] and "has changed" in bench.log()
    assert told["version"] == (bench.site / "lib.py").read_text().count("2") + 1 or change is hide_a_module
    bench.servers[0].wait(timeout=20)  # of no more use
    time.sleep(CLOCK_S + 0.1)
    bench.start_server()
    assert bench.told()["warm"] and bench.told()["version"] == told["version"]


def while_imported(bench: Bench, *lines: str) -> None:
    """Have the library do something as it is imported; the file is older than a server must know."""
    (bench.site / "lib.py").write_text("\n".join(["import os", *lines, "VERSION = 1\n"]))
    os.utime(bench.site / "lib.py", (1e9, 1e9))


@pytest.mark.parametrize(
    "change",
    [
        "os.utime(__file__)",
        "open(__file__, 'a').write('#'); os.utime(__file__, (1e9, 1e9))",
        "open(__file__ + '2', 'w').write(open(__file__).read()); os.utime(__file__ + '2', (1e9, 1e9)); "
        "os.rename(__file__ + '2', __file__)",
        "os.remove(__file__)",
    ],
    ids=["time", "size", "another-file", "gone"],
)
def test_a_module_that_changes_during_its_import_is_not_trusted(bench: Bench, change: str) -> None:
    while_imported(bench, change)
    with pytest.raises(AssertionError, match=r"lib\.py has changed meanwhile"):
        bench.start_server()


def test_a_module_that_gets_a_hard_link_during_its_import_is_trusted(bench: Bench) -> None:
    """Installers that share one copy of a package between environments make such links; only its `ctime` changes."""
    while_imported(bench, "os.link(__file__, f'{os.path.dirname(os.path.dirname(__file__))}/elsewhere')")
    bench.start_server()
    assert os.stat(bench.site / "lib.py").st_ctime > time.time() - 60 and bench.told()["warm"]


@pytest.mark.parametrize(("name", "value"), [("OMP_NUM_THREADS", "1"), ("PYTHONHASHSEED", "3"), ("LC_ALL", "C")])
def test_a_variable_with_effect_on_imports_starts_another_interpreter(bench: Bench, name: str, value: str) -> None:
    bench.start_server()
    assert not bench.told(environment={name: value})["warm"]
    assert bench.told()["warm"]
    bench.start_server(**{name: value})
    assert bench.told(environment={name: value})["warm"] and bench.told()["warm"]


def test_a_change_of_a_variable_read_by_an_import_is_noticed(bench: Bench) -> None:
    (bench.site / "lib.py").write_text("import os\nVERSION = int(os.environ.get('LIB_MODE', '1'))\n")
    time.sleep(CLOCK_S + 0.1)
    bench.start_server()
    assert bench.told(environment={"OTHER": "5"})["warm"]
    told = bench.told(environment={"LIB_MODE": "5"})
    assert not told["warm"] and told["version"] == 5 and "LIB_MODE" in bench.log()


def test_flags_and_environments_have_their_own_interpreters(bench: Bench) -> None:
    bench.start_server()
    venv = bench.folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    paths = [str(bench.site), str(Path(labrun.__file__).parents[1]), *(p for p in sys.path if "site-packages" in p)]
    for command in ([sys.executable, "-O"], [sys.executable, "-X", "dev"], [str(venv / "bin" / "python")]):
        values = {**bench.environment, "PYTHONPATH": os.pathsep.join(paths)} if len(command) == 1 else bench.environment
        done = subprocess.run([*command, str(bench.script), "tell"], env=values, cwd=bench.work, capture_output=True)
        assert b'"warm": false' in done.stdout, done.stderr
    assert bench.served() == 0


@pytest.mark.parametrize(
    "before",
    ["ulimit -s 4096;", "taskset -c 0", "unshare --uts", "chrt -b 0", "choom -n 100 --", "setpriv --no-new-privs"],
)
def test_commands_under_other_conditions_are_refused(warm: Bench, before: str) -> None:
    if not before.endswith(";") and shutil.which(before.split()[0]) is None:
        pytest.skip(f"needs {before.split()[0]}")
    line = f"{before} {' '.join(warm.command('tell'))}"
    done = subprocess.run(["bash", "-c", line], env=warm.environment, cwd=warm.work, capture_output=True, text=True)
    assert '"warm": false' in done.stdout, (done.stderr, warm.log())


def test_a_command_in_another_cgroup_is_refused(warm: Bench) -> None:
    """So that the commands of a Slurm job stay within its limits."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    places = [Path(fields[1]) for fields in mounts if fields[2] == "cgroup2" and os.access(fields[1], os.W_OK)]
    if not places:
        pytest.skip("needs cgroups that can be made here")
    group = places[0] / f"labrun-test-{os.getpid()}"
    group.mkdir()
    line = f"echo $$ > {group}/cgroup.procs && exec {' '.join(warm.command('tell'))}"
    try:
        done = subprocess.run(["bash", "-c", line], env=warm.environment, cwd=warm.work, capture_output=True, text=True)
        assert '"warm": false' in done.stdout, (done.stderr, warm.log())
    finally:
        wait_for(lambda: not (group / "cgroup.procs").read_text(), 20)
        group.rmdir()


def test_commands_with_wider_limits_than_the_server_are_refused(bench: Bench) -> None:
    bench.start_server()
    os.system(f"prlimit --pid {bench.servers[0].pid} --nofile=500:500")  # above the descriptors that it moves aside
    assert not bench.told()["warm"] and "wider limits" in bench.log()


def test_a_matplotlibrc_in_the_working_folder_makes_commands_cold(warm: Bench) -> None:
    (warm.work / "matplotlibrc").write_text("figure.dpi: 50\n")
    try:
        assert not warm.told()["warm"]
    finally:
        (warm.work / "matplotlibrc").unlink()


def test_an_idle_server_ends(bench: Bench) -> None:
    bench.start_server(LABRUN_WARM_IDLE_S="0.5")
    bench.servers[0].wait(timeout=20)
    assert not list(bench.place.glob("*.sock"))
    assert not bench.told()["warm"]


def test_a_folder_that_others_can_enter_is_not_used(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.start_server()
    bench.place.chmod(0o755)
    assert not bench.told()["warm"]
    monkeypatch.setenv("LABRUN_WARM_DIR", str(bench.folder / "link"))
    bench.place.chmod(0o700)
    (bench.folder / "link").symlink_to(bench.place)
    assert identity.folder() is None


@pytest.mark.parametrize(
    ("environment", "terminal", "wanted"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"CI": "true"}, True, False),
        ({"SLURM_JOB_ID": "7"}, True, False),
        ({"LABRUN_WARM": "0"}, True, False),
        ({"LABRUN_WARM": "1"}, False, True),
        ({"LABRUN_WARM": "1", "CI": "true"}, False, True),
    ],
)
def test_a_warm_interpreter_is_used_only_at_a_terminal(
    environment: dict[str, str], terminal: bool, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CI", "SLURM_JOB_ID", "LABRUN_RUN_DIR", "LABRUN_WARM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "isatty", lambda descriptor: terminal)
    monkeypatch.setattr(sys, "path", ["/one"])
    assert client._uses_warm("labrun.app") is wanted


def test_lab_warm_never_runs_in_a_warm_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABRUN_WARM", "1")
    monkeypatch.setattr(sys, "path", ["/one"])
    monkeypatch.setattr(sys, "argv", ["lab", "warm", "stop"])
    assert not client._uses_warm("labrun.cli") and client._uses_warm("labrun.app")


def test_a_second_server_of_the_same_kind_ends(bench: Bench) -> None:
    first = bench.start_server()
    bench.start_server()
    wait_for(lambda: bench.servers[1].poll() is not None, 20)
    assert bench.told()["warm"] and bench.servers[0].pid == first and bench.servers[0].poll() is None


def test_silent_or_invalid_clients_do_not_block_the_server(bench: Bench) -> None:
    bench.start_server()
    (path,) = bench.place.glob("*.sock")
    silent = wire.connect(str(bench.place), path.stem)
    for data in (b"", b"\x00\x00\x00\x04abcd", b"\x00\x00\x00\x01N", b"\xff" * 9):
        odd = wire.connect(str(bench.place), path.stem)
        assert odd is not None and silent is not None
        odd.sendall(data)
        odd.close()
    assert bench.told()["warm"]
    assert silent is not None
    silent.close()
