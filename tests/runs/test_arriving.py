"""Import of archives from others: completely or not at all, and nothing outside the workspace."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from helpers import submitted
from labrun.errors import RecordError
from labrun.runs import archive_export, archive_format, archive_import, files, removing, store
from labrun.runs.groups import Code
from labrun.runs.record import process_identity, read_record, write_record
from labrun.runs.workspace import Workspace

PLACE = "outputs/x/2026-01-01_00-00-00-"
BASE = {"name": "x", "task": "fit", "status": "completed", "created": "2026-01-01T00:00:00+00:00", "config": {}}
CODE = {"a.py": b"x = 1\n", "requests/__init__.py": b"", ".labignore": b"data\n"}


def record(run_id: str, **values: Any) -> bytes:
    return json.dumps({**BASE, "id": run_id, **values}).encode()


def write(
    path: Path, content: Mapping[str, bytes], runs: list[dict[str, Any]], change: Callable[[Any], None] | None = None
) -> Path:
    """An archive as `labrun.runs.archive_export` writes one, or nearly."""
    digests = {name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in content.items()}
    told = {"format": 1, "runs": runs, "files": digests}
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, data in content.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            if change is not None:
                change(entry)
            archive.addfile(entry, io.BytesIO(data))
        text = json.dumps(told).encode()
        entry = tarfile.TarInfo(archive_format.MANIFEST)
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
    return path


def one(path: Path, run_id: str = "aaaaaaa1", more: Mapping[str, bytes] | None = None, **values: Any) -> Path:
    folder = f"{PLACE}{run_id}"
    content = {f"{folder}/run.json": record(run_id, **values), **(more or {})}
    return write(path, content, [{"id": run_id, "name": "x", "folder": folder}])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace in its own folder: files beside it must not change."""
    root = tmp_path / "workspace"
    root.mkdir()
    return root.resolve()


def refused(root: Path, source: Path, limits: archive_format.Limits | None = None) -> str:
    with pytest.raises(RecordError) as caught:
        archive_import.import_(root, source, limits)
    assert list(root.rglob("run.json")) == []
    state = Workspace(root).state
    assert {path.name for path in state.iterdir()} <= {"import.lock", "index.json"}
    assert [path.name for path in root.parent.iterdir() if not path.name.startswith("a.tar")] == ["workspace"]
    return str(caught.value)


def test_exported_runs_can_be_imported(root: Path, tmp_path: Path) -> None:
    """With odd file names, code with folders of any name, compiled files, and a lost run."""
    names = [
        "a b",
        "ä",
        "日本.txt",
        "back\\slash",
        "A.txt",
        "a.txt",
        "heartbeat",
        "requests/x",
        ".launch/y",
        "a\nb",
        "deep/" * 30 + "z",
        "x" * 200,
        "%s",
        "it's",
        ".hidden",
        "\udcff.bin",
    ]
    for run_id, status in (("aaaaaaa1", "completed"), ("aaaaaaa2", "running"), ("aaaaaaa3", "failed")):
        run_dir = submitted(root, run_id)
        for name in names:
            path = run_dir / "outputs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.fsencode(name))
        (run_dir / "requests").mkdir(exist_ok=True)
        (run_dir / "requests" / "cancel").touch()
        base = root.parent / "code"
        for name, data in CODE.items():
            (base / name).parent.mkdir(parents=True, exist_ok=True)
            (base / name).write_bytes(data)
        digest = files.tree_digest(base, sorted(map(Path, CODE)))
        kept = Workspace(root).code / digest
        if not kept.exists():
            kept.parent.mkdir(parents=True)
            base.rename(kept)
        (kept / "__pycache__").mkdir(exist_ok=True)
        (kept / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"compiled")
        found = read_record(run_dir)
        found.status, found.code = status, Code(digest, folder=str(kept), files=3)
        found.process = dataclasses.replace(process_identity(), host="elsewhere")
        write_record(run_dir, found)
    runs = [(d, read_record(d)) for d in store.run_dirs(root)]
    archive_export.export(root, runs, tmp_path / "x.tar.gz")
    other = tmp_path / "other"
    other.mkdir()
    new, known = archive_import.import_(other, tmp_path / "x.tar.gz")
    assert sorted(new) == ["aaaaaaa1", "aaaaaaa2", "aaaaaaa3"] and known == []
    for run_dir, before in runs:
        came = other / run_dir.relative_to(root)
        assert {name: (came / "outputs" / name).read_bytes() for name in names} == {n: os.fsencode(n) for n in names}
        assert not (came / "requests").exists()
        after = read_record(came)
        assert after.status == ("failed" if before.status == "running" else before.status)
        assert after.code and Path(str(after.code.folder)).is_relative_to(other) and after.imported
        assert sorted(p.name for p in Path(str(after.code.folder)).iterdir()) == [".labignore", "a.py", "requests"]
    assert archive_import.import_(other, tmp_path / "x.tar.gz")[1] == new
    # And what came in goes out again.
    archive_export.export(other, [(d, read_record(d)) for d in store.run_dirs(other)], tmp_path / "y.tar")
    third = tmp_path / "third"
    third.mkdir()
    assert len(archive_import.import_(third, tmp_path / "y.tar")[0]) == 3


OTHER = "b" * 64
WRONG = [
    {"id": "aaaaaaa2"},
    {"name": "../x"},
    {"name": "a/b"},
    {"name": ""},
    {"name": ".x"},
    {"status": "odd"},
    {"code": {"digest": "../../../EVIL", "files": 0}},
    {"code": {"digest": "/tmp/EVIL", "files": 0}},
    {"code": {"digest": "x", "files": 0}},
    {"code": {"digest": 7}},
    {"code": [1]},
    {"code": {"script": 7}},
    {"code": {"script": {"digest": "../x"}}},
    {"code": {"environment": "../x"}},
    {"config": {"script": {"environment": "../../x"}}},
    {"config": {"script": 7}},
    {"config": 7},
    {"created": "x"},
    {"sweep": 7},
    {"tags": [1]},
    {"imported": 7},
]


@pytest.mark.parametrize("values", WRONG)
def test_values_that_labrun_never_writes_are_refused(root: Path, tmp_path: Path, values: dict[str, Any]) -> None:
    refused(root, one(tmp_path / "a.tar", **values))


def test_a_digest_without_a_code_folder_creates_none(root: Path, tmp_path: Path) -> None:
    """Otherwise every later run would take the folder, which lacks the files, for the code of that digest."""
    archive_import.import_(root, one(tmp_path / "a.tar", code={"digest": OTHER, "files": 0}))
    archive_import.import_(root, one(tmp_path / "a.tar", "aaaaaaa2", code={"digest": files.EMPTY, "files": 0}))
    assert [path.name for path in (Workspace(root).code).iterdir()] == [files.EMPTY]


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/tmp/evil",
        "outputs/../../evil",
        "outputs/x/../../../evil",
        "outputs\\..\\..\\evil",
        "outputs/evil",
        "outputs/.labrun/index.json",
        "outputs/.LABRUN/index.json",
        "code/evil",
        f"code/{OTHER[:-1]}/a.py",
        f"code/{OTHER}",
        f"code/../code/{OTHER}/a.py",
        f"{PLACE}aaaaaaa1/.launch/plan.json",
        f"{PLACE}aaaaaaa1/.Launch/plan.json",
        f"{PLACE}aaaaaaa1/requests/cancel",
        f"{PLACE}aaaaaaa1/heartbeat",
        "outputs/x/other/a.txt",
        "multirun/x/y/z/a.txt",
        f"{PLACE}aaaaaaa1",
        "",
        ".",
        "a" * 300,
        f"{PLACE}aaaaaaa1/" + "d/" * 100 + "x",
        f"{PLACE}aaaaaaa1/{'e' * 300}",
        f"{PLACE}aaaaaaa1/.git/config",
        f"{PLACE}aaaaaaa1/outputs/.GIT",
        f"code/{OTHER}/.git/hooks/post-checkout",
        "run.json",
        ".bashrc",
        "outputs/x/.hidden/run.json",
        f"code/{OTHER}/a.py",
    ],
)
def test_unsafe_names_in_an_archive_are_refused(root: Path, tmp_path: Path, name: str) -> None:
    refused(root, one(tmp_path / "a.tar", more={name: b"evil"}))


def test_git_repositories_are_neither_imported_nor_exported(root: Path, tmp_path: Path) -> None:
    """Git executes commands in a repository's configuration, even in a bare repository."""
    inner = f"{PLACE}aaaaaaa1/outputs"
    more = {f"{inner}/{name}": b"x" for name in ("HEAD", "config", "objects/a", "refs/b")}
    assert "of a git repository" in refused(root, one(tmp_path / "a.tar", more=more))
    run_dir = submitted(root, "aaaaaaa2")
    for name in ("outputs/clone/.git/config", "outputs/worktree/.git", "outputs/clone/weights.pt", "outputs/HEAD"):
        (run_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (run_dir / name).write_text("x")
    archive_export.export(root, [(run_dir, read_record(run_dir))], tmp_path / "b.tar.gz")
    other = tmp_path / "other"
    other.mkdir()
    archive_import.import_(other, tmp_path / "b.tar.gz")
    (came,) = other.glob("outputs/*/*/outputs")
    assert sorted(path.name for path in came.rglob("*")) == ["HEAD", "clone", "weights.pt"]


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.FIFOTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.DIRTYPE,
        tarfile.CONTTYPE,
        tarfile.GNUTYPE_SPARSE,
    ],
)
def test_kinds_of_entries_that_labrun_never_writes_are_refused(root: Path, tmp_path: Path, kind: bytes) -> None:
    def change(entry: tarfile.TarInfo) -> None:
        if entry.name.endswith("odd"):
            entry.type, entry.linkname, entry.size = kind, "/etc/passwd", 0

    name = f"{PLACE}aaaaaaa1/outputs/odd"
    content = {f"{PLACE}aaaaaaa1/run.json": record("aaaaaaa1"), name: b""}
    runs = [{"id": "aaaaaaa1", "name": "x", "folder": f"{PLACE}aaaaaaa1"}]
    refused(root, write(tmp_path / "a.tar", content, runs, change))


@pytest.mark.parametrize(
    "runs",
    [
        [{"id": "aaaaaaa1", "folder": "../x/y"}],
        [{"id": "aaaaaaa1", "folder": "outputs/../x"}],
        [{"folder": "outputs/x/y"}],
        [{"id": "aaaaaaa1", "folder": "/tmp/x/y"}],
        [{"id": "aaaaaaa1", "folder": 7}],
        [7],
        7,
        [{"id": 7, "folder": "a/b/c"}],
        [{"id": "aaaaaaa1", "folder": "outputs/x/y"}],
        [{"id": "../a", "folder": f"{PLACE}aaaaaaa1"}],
        [{"id": "aaaaaaa1", "folder": f"{PLACE}aaaaaaa1"}] * 2,
        [{"id": "aaaaaaa1", "folder": "outputs/.x/y"}],
        [{"id": "aaaaaaa1", "folder": "outputs//x/y"}],
        [{"id": "aaaaaaa1", "folder": "code/x/y"}],
    ],
)
def test_runs_in_invalid_folders_are_refused(root: Path, tmp_path: Path, runs: Any) -> None:
    refused(root, write(tmp_path / "a.tar", {f"{PLACE}aaaaaaa1/run.json": record("aaaaaaa1")}, runs))


def test_one_bad_run_blocks_the_whole_archive(root: Path, tmp_path: Path) -> None:
    content = {f"{PLACE}aaaaaaa{n}/run.json": record(f"aaaaaaa{n}") for n in range(5)}
    content[f"{PLACE}aaaaaaa4/run.json"] = b"{"
    runs = [{"id": f"aaaaaaa{n}", "name": "x", "folder": f"{PLACE}aaaaaaa{n}"} for n in range(5)]
    assert "aaaaaaa4/run.json is damaged" in refused(root, write(tmp_path / "a.tar", content, runs))


def test_an_archive_with_a_repeated_name_is_refused(root: Path, tmp_path: Path) -> None:
    path = one(tmp_path / "a.tar")
    with tarfile.open(path, "a") as archive:
        entry = tarfile.TarInfo(f"{PLACE}aaaaaaa1/run.json")
        archive.addfile(entry, io.BytesIO())
    assert "twice" in refused(root, path)


def test_exceeded_limits_name_the_option_that_raises_them(root: Path, tmp_path: Path) -> None:
    big = {f"{PLACE}aaaaaaa1/outputs/zeros": bytes(80 * 2**20)}
    path = one(tmp_path / "a.tar.gz", more=big)
    assert "--max-ratio" in refused(root, path)
    assert "--max-gb" in refused(root, path, archive_format.Limits(gb=0.01, ratio=1e9))
    assert "--max-files" in refused(root, path, archive_format.Limits(files=2, ratio=1e9))
    assert archive_import.import_(root, path, archive_format.Limits(ratio=1e9))[0] == ["aaaaaaa1"]


def test_a_header_with_a_huge_name_is_not_read(root: Path, tmp_path: Path) -> None:
    """Python reads such a header into memory before any check."""
    entry = tarfile.TarInfo("././@PaxHeader")
    entry.type, entry.size = tarfile.XHDTYPE, 2**33
    path = tmp_path / "a.tar.gz"
    with gzip.open(path, "wb") as file:
        file.write(entry.tobuf())
        file.write(bytes(2**21))
    refused(root, path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no archive",
        b"\x1f\x8b",
        b"\x1f\x8b" + b"x" * 100,
        b"BZh9" + b"x" * 100,
        b"\xfd7zXZ\0" + b"x" * 100,
        bytes(10_240),
    ],
)
def test_files_that_are_no_archive_are_refused(root: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    refused(root, tmp_path / "a.tar")


def test_a_pipe_a_folder_and_a_missing_file_are_refused(root: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    assert "is not a file" in refused(root, tmp_path / "a.tar")
    (tmp_path / "a.tar").unlink()
    assert "there is no file" in refused(root, tmp_path / "a.tar")
    (tmp_path / "a.tar").mkdir()
    assert "is not a file" in refused(root, tmp_path / "a.tar")


def test_code_that_does_not_match_its_digest_is_refused(root: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256(f"a.py\0{hashlib.sha256(b'x').hexdigest()}\n".encode()).hexdigest()
    good = {f"code/{digest}/a.py": b"x"}
    assert "does not match the digest in its name" in refused(
        root, one(tmp_path / "a.tar", more={f"code/{digest}/a.py": b"y"})
    )
    compiled = {**good, f"code/{digest}/__pycache__/a.cpython-311.pyc": b"evil"}
    archive_import.import_(root, one(tmp_path / "a.tar", more=compiled, code={"digest": digest}))
    kept = Workspace(root).code / digest
    assert [path.name for path in kept.iterdir()] == ["a.py"], (
        "Python would run the compiled file in the source's place"
    )


def many(path: Path, count: int = 20) -> Path:
    content = {f"{PLACE}aaaaaa{n:02d}/run.json": record(f"aaaaaa{n:02d}") for n in range(count)}
    runs = [{"id": f"aaaaaa{n:02d}", "name": "x", "folder": f"{PLACE}aaaaaa{n:02d}"} for n in range(count)]
    return write(path, content, runs)


class Killed(BaseException):
    """As kill -9 would have it: nothing is cleaned up."""


def killed_at(monkeypatch: pytest.MonkeyPatch, root: Path, source: Path, renames: int) -> None:
    """Kill an import as it renames, so that its temporary files stay."""
    left, rename = [renames], Path.rename

    def one_less(path: Path, target: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", one_less)
        patch.setattr("shutil.rmtree", lambda *_, **__: None)
        with pytest.raises(Killed):
            archive_import.import_(root, source)


@pytest.mark.parametrize("renames", [0, 1, 7, 19])
def test_a_killed_import_is_finished_by_the_next_command(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    source = many(tmp_path / "a.tar")
    killed_at(monkeypatch, root, source, renames)
    assert len(list(Workspace(root).state.glob("import-*"))) == 1
    if renames == 7:
        assert archive_import.left(root, finish=True) == []  # as `lab runs gc` does
    else:
        archive_import.import_(root, source)
    assert len(list(store.run_dirs(root))) == 20 and not list(Workspace(root).state.glob("import-*"))


def test_an_import_killed_while_unpacking_is_removed(root: Path, tmp_path: Path) -> None:
    rest = Workspace(root).state / "import-0123" / "outputs" / "x"
    rest.mkdir(parents=True)
    (rest / "run.json").write_text("{}")
    (garbage,) = removing.garbage(root, store.listing(root))
    assert garbage.what == "left over from an import"
    removing.remove_garbage(garbage)
    assert not (Workspace(root).state / "import-0123").exists()
    rest.mkdir(parents=True)
    archive_import.import_(root, many(tmp_path / "a.tar"))
    assert not (Workspace(root).state / "import-0123").exists()


def test_a_disk_that_fails_during_an_import_leaves_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, rename = [9], Path.rename

    def fails(path: Path, target: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails)
    assert "No space left" in refused(root, many(tmp_path / "a.tar"))


def test_export_packs_no_files_outside_the_run(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    run_dir = submitted(root, "aaaaaaa1")
    (run_dir / "outputs" / "link").symlink_to(outside / "secret")
    (run_dir / "outputs" / "folder").symlink_to(outside)
    content = json.loads((run_dir / "run.json").read_text())
    content |= {"status": "completed", "code": {"digest": "../../../../outside", "script": {"digest": str(outside)}}}
    (run_dir / "run.json").write_text(json.dumps(content))
    archive_export.export(root, [(run_dir, read_record(run_dir))], tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert not [name for name in archive.getnames() if "secret" in name or "link" in name]
    for values in ({"name": "../../x"}, {"id": "../../x"}):
        (run_dir / "run.json").write_text(json.dumps({**content, **values}))
        with pytest.raises(RecordError, match="which labrun never assigns"):
            archive_export.export(root, [(run_dir, read_record(run_dir))], tmp_path / "b.tar")
