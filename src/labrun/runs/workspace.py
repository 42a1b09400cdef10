"""Where labrun keeps its internal state in a workspace."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from labrun.runs import context


@dataclass(frozen=True)
class Workspace:
    """Paths of labrun's internal state in a workspace. Those of runs are `RunPaths`, those of sweeps `SweepState`.

    Args:
        root: the folder that holds `outputs/` and `multirun/`.
    """

    root: Path

    @property
    def state(self) -> Path:
        """The folder of the internal state."""
        return self.root / context.STATE

    @property
    def index(self) -> Path:
        """What was read of the runs' records."""
        return self.state / "index.json"

    @property
    def custom_locations(self) -> Path:
        """Folders outside `outputs/` and `multirun/` that hold runs: one line each."""
        return self.state / "elsewhere.jsonl"

    @property
    def import_lock(self) -> Path:
        """Held while an archive is imported."""
        return self.state / "import.lock"

    def import_folder(self, name: str) -> Path:
        """Return the folder in which an archive is unpacked until its files move into the workspace."""
        return self.state / f"import-{name}"

    def import_folders(self) -> list[Path]:
        """Return the existing ones, sorted by name; those of killed imports stay."""
        return sorted(self.state.glob(self.import_folder("*").name))

    @property
    def code(self) -> Path:
        """Code snapshots: one folder each, named by its digest."""
        return self.state / "code"

    @property
    def environments(self) -> Path:
        """Environments built for scripts: one folder each, named by its digest."""
        return self.state / "environments"

    @property
    def cache(self) -> Path:
        """Mounted files, by content."""
        return self.state / "cache"

    @property
    def digests(self) -> Path:
        """What was read to digest data: one file per datastore."""
        return self.state / "digests"

    @property
    def transfers(self) -> Path:
        """Progress of interrupted uploads: one file each."""
        return self.state / "transfers"

    @property
    def pictures(self) -> Path:
        """Pictures that compare runs."""
        return self.state / "pictures"

    @property
    def submissions(self) -> Path:
        """Output of runs that were submitted from Python and are not watched: one file each."""
        return self.state / "submissions"

    @property
    def removed(self) -> Path:
        """The runs that were removed: one line each, for trackers."""
        return self.state / "removed.jsonl"

    @property
    def remotes(self) -> Path:
        """Marks of the folders whose runs are on another machine."""
        return self.state / "remote"

    @property
    def azureml(self) -> Path:
        """Files of the Azure ML compatibility layer."""
        return self.state / "azureml"

    @property
    def journal(self) -> Path:
        """The journal of the registered models."""
        return self.state / "registry.jsonl"

    @property
    def models(self) -> Path:
        """Files of the registered models: a folder per model, with one per version."""
        return self.state / "models"

    @property
    def registry_lock(self) -> Path:
        """Held while MLflow's registered models are updated."""
        return self.state / "registry.lock"

    @property
    def mlflow(self) -> Path:
        """MLflow's database."""
        return self.state / "mlflow.db"

    @property
    def mlflow_lock(self) -> Path:
        """Held while things are created that MLflow would otherwise create twice."""
        return self.state / "mlflow.lock"

    @property
    def mlruns(self) -> Path:
        """MLflow's folder of artifacts."""
        return self.state / "mlruns"

    @property
    def tracking(self) -> Path:
        """State of MLflow's view, as its pages show it."""
        return self.state / "tracking.json"

    @property
    def tracking_log(self) -> Path:
        """Output of the processes that feed trackers."""
        return self.state / "tracking.log"

    def note(self, name: str, key: str, suffix: str = ".json") -> Path:
        """Return a file on a tracker's database, server or folder.

        Args:
            name: what the file holds.
            key: stands for the database, server or folder; empty for the workspace's own.
            suffix: of the file's name.
        """
        return self.state / f"{name}{key}{suffix}"

    @property
    def ui(self) -> Path:
        """Identifies the running `lab ui`."""
        return self.state / "ui.json"

    @property
    def ui_log(self) -> Path:
        """Output of MLflow's server under `lab ui`."""
        return self.state / "ui.log"
