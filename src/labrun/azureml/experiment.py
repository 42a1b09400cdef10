"""`Experiment`: a name that runs share, and the calls that submit and list them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labrun.azureml import folder, kinds, lookup, starting
from labrun.azureml.advice import Advising
from labrun.azureml.notices import notify_once
from labrun.azureml.submitting import Config
from labrun.azureml.workspace import Workspace
from labrun.compat.azureml import absent, arguments
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.compat.azureml.training import registered
from labrun.compat.azureml.training.children import ASSIGNED
from labrun.compat.azureml.training.experiment import described, own_name
from labrun.compat.azureml.training.run import Run as ScriptsRun
from labrun.runs import context, store

if TYPE_CHECKING:
    from labrun.azureml.run import Run

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,255}")


class ViewType:
    """Filter for listing experiments. labrun never archives one, so `ArchivedOnly` matches nothing."""

    All = "All"
    ActiveOnly = "ActiveOnly"
    ArchivedOnly = "ArchivedOnly"


class Experiment(Advising):
    """The runs that share one name.

    Args:
        workspace: the workspace that holds them; None: the current one.
        name: letters, digits, `_` and `-`, as in Azure; None: the name of the run that this script belongs to.
        **private: the SDK's private arguments; of these, `_skip_name_validation` is used.

    Raises:
        UserErrorException: the name is missing or has other characters.
        TypeError: there is no such argument.
    """

    def __init__(self, workspace: Any = None, name: str | None = None, **private: Any) -> None:
        arguments.check(Experiment.__init__, private)
        self.workspace: Workspace = workspace if isinstance(workspace, Workspace) else Workspace()
        self.name = own_name() if name is None else str(name)
        if not private.get("_skip_name_validation") and not NAME.fullmatch(self.name):
            raise UserErrorException(
                f"Experiment name {self.name!r} is invalid: use 1 to 256 letters, digits, '_' and '-', and do not "
                "begin with '-'"
            )

    def __repr__(self) -> str:
        return f"Experiment(Name: {self.name},\nWorkspace: {self.workspace.name})"

    def _repr_html_(self) -> str:
        from labrun.azureml import widgets

        rows = {"Name": self.name, "Workspace": self.workspace.name, "Report Page": self.get_portal_url()}
        return widgets.table([rows])

    @property
    def id(self) -> str:
        """The experiment's name."""
        return self.name

    identity = id

    @classmethod
    def from_directory(cls, path: Any, auth: Any = None) -> Experiment:
        """Return the experiment named after a folder."""
        return cls(Workspace.from_config(path), Path(os.fspath(path)).resolve().name)

    @property
    def tags(self) -> dict[str, str]:
        """The tags set on the experiment."""
        return dict(folder.read_table(self.workspace.folder, "experiments").get(self.name, {}).get("tags") or {})

    @property
    def properties(self) -> dict[str, str]:
        """Always empty."""
        return {}

    def submit(
        self,
        config: Any,
        tags: Mapping[str, Any] | None = None,
        *,
        show_output: bool = False,
        parent: str | None = None,
    ) -> Any:
        """Submit a run. It keeps going after this program exits.

        Args:
            config: a `ScriptRunConfig`, an estimator, a `HyperDriveConfig` or an `AutoMLConfig`.
            tags: tags of the run.
            show_output: for an `AutoMLConfig`: wait for the search and stream its output.
            parent: labrun's id of the parent run.

        Returns:
            The submitted run.

        Raises:
            UserErrorException: labrun rejects the configuration; the message is labrun's.
        """
        if not isinstance(config, Config):
            raise UserErrorException(
                f"experiment.submit({type(config).__name__}): submit a ScriptRunConfig, an Estimator, a "
                "HyperDriveConfig or an AutoMLConfig"
            )
        return config.submitted(self, {str(k): str(v) for k, v in (tags or {}).items()}, parent, show_output)

    def get_runs(
        self,
        type: str | None = None,
        tags: Any = None,
        properties: Any = None,
        include_children: bool = False,
        status: str | None = None,
    ) -> Iterator[Run]:
        """Yield the experiment's runs, newest first.

        Args:
            type: only runs of this type, such as `azureml.scriptrun`.
            tags: only runs with this tag, or with these tags and values.
            properties: only runs with these properties.
            include_children: also yield the runs of sweeps and child runs.
            status: only runs with this status, such as `Completed`.
        """
        found = lookup.runs_of(self.workspace.folder, self.name, include_children)
        for run in (kinds.wrapped(self, work) for work in found):
            if type not in (None, run.type) or status not in (None, run.get_status()):
                continue
            if registered.fits(run.tags, tags) and registered.fits(run.properties, properties):
                yield run

    @staticmethod
    def list(
        workspace: Any, experiment_name: str | None = None, view_type: str = ViewType.ActiveOnly, tags: Any = None
    ) -> list[Experiment]:
        """Return the experiments that have runs or tags. For `ArchivedOnly` the list is empty.

        Args:
            workspace: the workspace; any other value stands for the current one.
            experiment_name: only the experiment with this name.
            view_type: one of `ViewType`.
            tags: only experiments with this tag, or with these tags and values.
        """
        if view_type == ViewType.ArchivedOnly:
            return []
        made = workspace if isinstance(workspace, Workspace) else Workspace()
        names = {record.name for _, record in store.listing(made.folder).runs}
        names |= set(folder.read_table(made.folder, "experiments"))
        found = [
            Experiment(made, name, _skip_name_validation=True)
            for name in sorted(names)
            if experiment_name in (None, name)
        ]
        return [one for one in found if registered.fits(one.tags, tags)] if tags else found

    def start_logging(
        self,
        name: str | None = None,
        run_id: str | None = None,
        outputs: Any = None,
        snapshot_directory: Any = ".",
        display_name: str | None = None,
        parent: Any = None,
        tags: Mapping[str, Any] | None = None,
        properties: Mapping[str, Any] | None = None,
        **unknown: Any,
    ) -> Any:
        """Start a run without a script, to which this program logs; inside a run, return that run.

        Args:
            name: the run's display name, unless `display_name` is given.
            run_id: not used: labrun assigns the ids; a notice says so.
            outputs: see `starting.start`.
            snapshot_directory: the folder whose code is stored with the run; None: no code.
            display_name: the run's display name.
            parent: the parent run's id.
            tags: tags of the run.
            properties: properties of the run.
            **unknown: refused.

        Raises:
            UserErrorException: labrun cannot start the run, for example because the folder does not exist.
            TypeError: there is no such argument.
        """
        arguments.check(Experiment.start_logging, unknown)
        arguments.tell_unused("start_logging", {"run_id": run_id}, ASSIGNED)
        shown = display_name or name
        if context.current() is not None:
            return described(ScriptsRun.get_context(), outputs, shown, tags, properties)

        return starting.start(self, outputs, snapshot_directory, shown, parent, tags, properties)

    def get_portal_url(self) -> str:
        """Return the address of `lab ui` while it is running, otherwise the URI of the folder with the runs."""
        address = self.workspace.get_portal_url()
        return address if address.startswith("http") else (self.workspace.folder / "outputs" / self.name).as_uri()

    def get_docs_url(self) -> str:
        """Return the path of the page that explains the SDK's names."""
        return "docs/coming-from-azureml.md"

    def tag(self, key: str, value: Any = None) -> None:
        """Set a tag of the experiment."""
        self.set_tags({key: value})

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags of the experiment."""
        new = {str(k): "" if v is None else str(v) for k, v in tags.items()}
        self._change_tags(lambda now: {**now, **new})

    def remove_tags(self, tags: Any) -> None:
        """Remove tags from the experiment."""
        gone = [tags] if isinstance(tags, str) else list(tags)
        self._change_tags(lambda now: {key: value for key, value in now.items() if key not in gone})

    def _change_tags(self, changed: Callable[[dict[str, str]], dict[str, str]]) -> None:
        folder.change(
            self.workspace.folder,
            "experiments",
            self.name,
            lambda entry: {**entry, "tags": changed(dict(entry.get("tags") or {}))},
        )

    @property
    def archived_time(self) -> None:
        """Always None: labrun does not archive experiments."""
        return None

    def archive(self) -> None:
        """Print a notice, once, that nothing happens: the records stay where they are."""
        notify_once(f"archive() of the experiment {self.name}: nothing happens: labrun lists all experiments")

    def reactivate(self, new_name: str | None = None) -> None:
        """Do nothing; see `archive`."""

    def delete(self, *args: Any, **kwargs: Any) -> None:
        """Raise: labrun does not let a script delete run records."""
        absent.not_here("Experiment.delete()", f"remove its runs: `lab runs rm --experiment {self.name}`")

    @property
    def workspace_object(self) -> Workspace:
        """The workspace."""
        return self.workspace

    @property
    def portal_url(self) -> str:
        return self.get_portal_url()

    def refresh(self) -> None:
        """Do nothing: every value is read when it is needed."""
