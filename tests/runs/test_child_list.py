"""The list of the child runs that a script has started."""

from __future__ import annotations

from pathlib import Path

from labrun.runs import child_list


def test_children_are_listed_in_order_without_the_lines_that_are_none(tmp_path: Path) -> None:
    run_dir = tmp_path / "outputs" / "test" / "parent"
    run_dir.mkdir(parents=True)
    assert child_list.read(run_dir) == []
    child_list.add(tmp_path, run_dir, tmp_path / "outputs" / "test" / "first")
    with open(run_dir / child_list.FILE, "ab") as file:
        file.write(b'{"folder": "torn\n\xff\n7\n{}\n')
    child_list.add(tmp_path, run_dir, tmp_path / "multirun" / "second")
    assert child_list.read(run_dir) == ["outputs/test/first", "multirun/second"]
