"""Programs that update the workspace's tables concurrently."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from labrun.azureml.compute import AmlCompute
from labrun.azureml.dataset import Dataset
from labrun.azureml.environment import Environment
from labrun.azureml.experiment import Experiment
from labrun.azureml.workspace import Workspace

PROCESSES, EACH = 8, 3


def _register(number: int) -> None:
    ws = Workspace()
    tags = Experiment(ws, "tagged")
    for place in range(EACH):
        name = f"{number}-{place}"
        Path(f"{name}.csv").write_text(f"name\n{name}\n")
        Dataset.Tabular.from_delimited_files(f"{name}.csv").register(
            ws, "many", tags={"of": name}, create_new_version=True
        )
        made = Environment("mine")
        made.environment_variables = {"OF": name}
        made.register(ws)
        tags.tag(name)
        AmlCompute.create(ws, f"box-{name}", AmlCompute.provisioning_configuration("STANDARD_D2", max_nodes=2))


def test_concurrent_registrations_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to 15 s on a busy machine: eight processes, each with three registrations of every kind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LABRUN_ROOT", str(tmp_path))
    ws = Workspace()
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_register, args=(number,)) for number in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    wanted = {f"{number}-{place}" for number in range(PROCESSES) for place in range(EACH)}
    count = len(wanted)
    versions = [Dataset.get_by_name(ws, "many", number) for number in range(1, count + 1)]
    assert [one.version for one in versions] == list(range(1, count + 1)) and ws.datasets["many"].version == count
    assert {one.tags["of"] for one in versions} == wanted
    assert all(one.to_pandas_dataframe()["name"].tolist() == [one.tags["of"]] for one in versions[::9])
    kept = [Environment.get(ws, "mine", str(number)) for number in range(1, count + 1)]
    assert {one.environment_variables["OF"] for one in kept} == wanted
    assert set(Experiment(ws, "tagged").tags) == wanted
    assert {target.name for target in AmlCompute.list(ws)} == {f"box-{name}" for name in wanted}
