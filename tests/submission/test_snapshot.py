"""Code snapshots include all changes and no secrets; freezing keeps references."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from conftest import Runner
from labrun.compose import composed
from labrun.errors import ConfigError
from labrun.runs.groups import Code, ScriptCode
from labrun.runs.record import RunPaths
from labrun.submission import freeze, snapshot
from labrun.tasks.script import script as script_task


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    base = tmp_path / "repository"
    (base / "pkg").mkdir(parents=True)
    for name, text in {
        "pkg/code.py": "x = 1\n",
        "conf.yaml": "a: 1\n",
        ".gitignore": "ignored.py\n",
        "ignored.py": "no\n",
    }.items():
        (base / name).write_text(text)
    git(base, "init", "-q")
    git(base, "add", "-A")
    git(base, "commit", "-qm", "first")
    return base


def names(taken: Code | ScriptCode) -> set[str]:
    folder = Path(str(taken.folder))
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_changed_and_new_files_are_included_and_ignored_ones_are_not(repository: Path, tmp_path: Path) -> None:
    (repository / "pkg" / "code.py").write_text("x = 2\n")
    (repository / "new.py").write_text("y = 1\n")
    taken = snapshot.take(repository, tmp_path)
    assert names(taken) == {"pkg/code.py", "conf.yaml", ".gitignore", "new.py"}
    assert (Path(str(taken.folder)) / "pkg" / "code.py").read_text() == "x = 2\n"
    assert Path(str(taken.folder)).stat().st_mode & 0o777 == 0o700


def test_links_are_followed_within_the_tree_and_reported_elsewhere(
    repository: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In many projects `data` is a link to elsewhere, and not code; a link to a parent folder is an endless loop."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "tool.py").write_text("z = 1\n")
    for name, goal in (("near", "pkg"), ("far", "../tools"), ("data", "../tools"), ("pkg/up", "..")):
        (repository / name).symlink_to(goal)
    taken = snapshot.take(repository, tmp_path)
    assert names(taken) == {"pkg/code.py", "near/code.py", "conf.yaml", ".gitignore"}
    assert f"link out of {repository}, or to a folder above themselves: far, pkg/up" in caplog.text


def test_the_workspaces_own_runs_are_not_code(repository: Path) -> None:
    first = snapshot.take(repository, repository)
    for name in (
        "outputs/a/1/run.json",
        "outputs/a/1/config.yaml",
        "multirun/a/1/multirun.yaml",
        "elsewhere/1/run.json",
        "elsewhere/1/.hydra/config.yaml",
        "elsewhere/.launch/plan.json",
    ):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text("a secret, say\n")
    second = snapshot.take(repository, repository)
    assert names(second) == names(first) and second.digest == first.digest


RUNS = (
    "results/run/run.json",
    "results/run/metrics.jsonl",
    "results/run/work/train.py",
    "results/run/.hydra/hydra.yaml",
    "results/sweep/.launch/plan.json",
    "results/sweep/multirun.yaml",
    "results/sweep/results.csv",
    "results/sweep/0/run.json",
    "results/plain/.hydra/overrides.yaml",
    "results/plain/train.py",
    "results/plain_sweep/multirun.yaml",
    "results/plain_sweep/0/.hydra/hydra.yaml",
    "copied/run.json",
    "copied/driver.log",
    "sub/outputs/.labrun/code/0f/train.py",
)
CODE = ("train.py", "results/read.py", "own/run.json", "conf/multirun.yaml", "own/__init__.py")


@pytest.mark.parametrize("kind", ["untracked", "tracked", "no git"])
def test_runs_in_any_folder_are_not_code(repository: Path, tmp_path: Path, kind: str) -> None:
    base = repository if kind != "no git" else tmp_path / "plain"
    for name in (*RUNS, *CODE):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text("x = 1\n")
    if kind == "tracked":
        git(base, "add", "-f", *RUNS, *CODE)
    taken = snapshot.take_folder(base, tmp_path / "workspace")
    assert names(taken) - {"pkg/code.py", "conf.yaml", ".gitignore"} == set(CODE)
    assert not names(snapshot.take(base, tmp_path / "workspace")) & set(RUNS)


def test_code_is_found_in_a_folder_that_is_itself_a_run(repository: Path, tmp_path: Path) -> None:
    """With hydra.run.dir=. the working folder is the run's."""
    before = snapshot.take(repository, tmp_path).digest
    for name in (".hydra/overrides.yaml", "run.json", "metrics.jsonl", "driver.log"):
        (repository / name).parent.mkdir(exist_ok=True)
        (repository / name).write_text("{}")
    assert snapshot.take(repository, tmp_path).digest == before


def test_runs_do_not_make_the_work_tree_dirty(repository: Path) -> None:
    def is_changed() -> bool:
        state = freeze.git_state(repository / "pkg", repository)
        assert state is not None
        return bool(state.dirty)

    for name in (*RUNS, "outputs/name/run/run.json", "multirun/name/sweep/0/notes.txt"):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text("x = 1\n")
    assert not is_changed()
    (repository / "results" / "new.py").write_text("y = 1\n")
    assert is_changed()
    (repository / "results" / "new.py").unlink()
    (repository / "pkg" / "code.py").write_text("x = 2\n")
    assert is_changed(), "what lies beside the folder counts too"


def test_git_is_called_only_where_it_may_find_a_repository(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repository, a worktree, whose `.git` is a file, a bare repository, a link into one, and `GIT_DIR`."""
    plain = tmp_path / "plain" / "deep"
    plain.mkdir(parents=True)
    git(repository, "worktree", "add", "-q", str(tmp_path / "worktree"))
    git(tmp_path, "init", "-q", "--bare", "bare")
    (tmp_path / "link").symlink_to(repository / "pkg")
    for place in (repository, repository / "pkg", tmp_path / "worktree", tmp_path / "bare", tmp_path / "link"):
        assert snapshot.may_be_in_git(place), place
    assert freeze.git_state(tmp_path / "worktree" / "pkg", tmp_path / "worktree") is not None
    assert not snapshot.may_be_in_git(plain) and freeze.git_state(plain, plain) is None
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))
    assert snapshot.may_be_in_git(plain) and freeze.git_state(plain, plain) is not None


def test_new_output_folders_are_ignored_by_git(run_here: Runner, workspace: Path) -> None:
    git(workspace, "init", "-q")
    run_here("report=none", "dataset.max_samples=50")
    listed = subprocess.run(["git", "status", "--porcelain"], cwd=workspace, capture_output=True, text=True, check=True)
    assert listed.stdout == "" and not (workspace / "multirun").exists()
    (workspace / "outputs" / ".gitignore").unlink()
    (workspace / "outputs" / "own.csv").write_text("1\n")
    run_here("report=none", "dataset.max_samples=50")
    assert not (workspace / "outputs" / ".gitignore").exists(), "the user keeps files there"


def test_outside_git_a_package_may_have_a_folder_called_data(tmp_path: Path) -> None:
    base = tmp_path / "project"
    for name in (
        "main.py",
        "pkg/__init__.py",
        "pkg/data/loaders.py",
        "data/__init__.py",
        "venv/not.py",
        "pkg/__pycache__/not.py",
        "conf/model/mine.yaml",
    ):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text("# x\n")
    assert names(snapshot.take(base, tmp_path)) == {
        "main.py",
        "pkg/__init__.py",
        "pkg/data/loaders.py",
        "data/__init__.py",
        "conf/model/mine.yaml",
    }


def test_outside_git_a_folder_of_modules_is_code(tmp_path: Path) -> None:
    base = tmp_path / "project"
    for name in ("nets/net.py", "nets/deep/er.py", "nets/images/1/label.yaml", "data/fetch.py", "notes/todo.yaml"):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text("# x\n")
    assert names(snapshot.take(base, tmp_path)) == {"nets/net.py", "nets/deep/er.py"}


def test_submodules_and_clones_inside_are_code(repository: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "net.py").write_text("z = 1\n")
    git(other, "init", "-q")
    git(other, "add", "-A")
    git(other, "commit", "-qm", "first")
    git(repository, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(other), "sub")
    git(repository, "clone", "-q", str(other), "clone")
    assert {"sub/net.py", "clone/net.py", "pkg/code.py"} <= names(snapshot.take(repository, tmp_path))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("prod.env", "PW=1"),
        (".htpasswd", "a:b"),
        ("_netrc", "password c"),
        ("secrets.yaml", "k: d"),
        ("sa.json", '{"private_key": "-----BEGIN PRIVATE KEY-----\\nabc"}'),
        ("bundle.txt", "first line\n-----BEGIN RSA PRIVATE KEY-----\nabc\n"),
    ],
)
def test_files_with_secrets_are_not_code(repository: Path, tmp_path: Path, name: str, text: str) -> None:
    (repository / name).write_text(text)
    git(repository, "add", "-A")
    assert name not in names(snapshot.take(repository, tmp_path))


def test_equal_code_is_stored_once_and_only_sources_are_signed(repository: Path, tmp_path: Path) -> None:
    first = snapshot.take(repository, tmp_path)
    assert snapshot.take(repository, tmp_path) == first
    (repository / "README.md").write_text("words\n")
    second = snapshot.take(repository, tmp_path)
    assert second.digest != first.digest and second.sources == first.sources
    (repository / "pkg" / "code.py").write_text("x = 3\n")
    assert snapshot.take(repository, tmp_path).sources != first.sources


def test_secrets_and_links_out_of_the_tree_are_never_code(
    repository: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (
        ".env",
        ".env.local",
        "server.pem",
        "server.key",
        "id_rsa",
        ".netrc",
        ".ssh/known",
        "credentials.json",
    ):
        (repository / name).parent.mkdir(exist_ok=True)
        (repository / name).write_text("hunter2")
    (tmp_path / "outside.py").write_text("hunter2")
    (repository / "link.py").symlink_to(tmp_path / "outside.py")
    taken = snapshot.take(repository, tmp_path)
    assert names(taken) == {"pkg/code.py", "conf.yaml", ".gitignore"}
    assert "link.py" in caplog.text


def test_labignore_excludes_more_files(repository: Path, tmp_path: Path) -> None:
    (repository / ".labignore").write_text("# not code\npkg/\n*.md\n!README.md\n")
    (repository / "README.md").write_text("")
    (repository / "notes.md").write_text("")
    assert names(snapshot.take(repository, tmp_path)) == {"conf.yaml", ".gitignore", ".labignore", "README.md"}


def test_an_invalid_labignore_is_refused(repository: Path, tmp_path: Path) -> None:
    (repository / ".labignore").write_text("!\n")
    with pytest.raises(ConfigError, match=r"\.labignore: .*'!'"):
        snapshot.take(repository, tmp_path)


def test_large_files_are_left_out_and_a_large_total_is_refused(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "big.bin").write_bytes(b"0" * (snapshot.LARGEST_FILE + 1))
    assert "big.bin" not in names(snapshot.take(repository, tmp_path))
    monkeypatch.setattr(snapshot, "LARGEST_TOTAL", 10)
    with pytest.raises(ConfigError, match=r"\.labignore"):
        snapshot.take(repository, tmp_path)


def test_outside_git_only_sources_are_code(tmp_path: Path) -> None:
    base = tmp_path / "plain"
    (base / "conf" / "model").mkdir(parents=True)
    (base / "net.py").write_text("")
    (base / "conf" / "model" / "net.yaml").write_text("")
    (base / "photo.jpg").write_bytes(b"")
    (base / "other-project").mkdir()
    (base / "other-project" / "stranger.py").write_text("")
    assert names(snapshot.take(base, tmp_path)) == {"net.py", "conf/model/net.yaml"}


def test_a_scripts_folder_is_taken_except_for_its_amlignored_files(repository: Path, tmp_path: Path) -> None:
    files = {
        ".amlignore": "# no code\n*.tmp\n/raw/\nnotes/**\n!notes/keep.txt\n[ab].csv\n**/deeper/*.txt\n",
        **dict.fromkeys(("train.py", "deep/raw/x", "data/load.py", "notes/keep.txt", "deeper/x.md"), "yes"),
        **dict.fromkeys(("x.tmp", "deep/y.tmp", "raw/x", "notes/z", "a.csv", "deep/b.csv", "deeper/x.txt"), "no"),
        **dict.fromkeys(("data/rows.csv", "data/raw/rows.csv"), "linked"),
    }
    script, ignored = tmp_path / "script", repository / "ignored"
    (repository / ".gitignore").write_text("ignored/\n")
    for base in (script, ignored):
        for name, text in files.items():
            (base / name).parent.mkdir(parents=True, exist_ok=True)
            (base / name).write_text(text)
        taken = snapshot.take_folder(base, tmp_path)
        assert names(taken) == {name for name, text in files.items() if text == "yes"} | {".amlignore"}
    paths = RunPaths(tmp_path / "run")
    work = script_task.make_work_folder(paths, Path(str(taken.folder)), script)
    assert (work / "data" / "raw" / "rows.csv").read_text() == "linked" and not (work / "data" / "load.py").is_symlink()
    there = {path.name for path in work.rglob("*")}
    assert "keep.txt" in there and not there & {"x.tmp", "y.tmp", "z", "a.csv", "b.csv", "x.txt"}
    assert not (work / "raw").exists()


def test_environment_stays_a_reference_through_other_interpolations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABRUN_SECRET", "hunter2")
    model = {"key": "${oc.env:LABRUN_SECRET}", "copy": "x-${.key}", "n": 1, "m": "${model.n}"}
    config = OmegaConf.create({"model": model})
    kept = composed.resolved(config, keep_environment=True)["model"]
    assert kept == {"key": "${oc.env:LABRUN_SECRET}", "copy": "x-${oc.env:LABRUN_SECRET}", "n": 1, "m": 1}
    assert composed.resolved(config, keep_environment=False)["model"]["copy"] == "x-hunter2"
