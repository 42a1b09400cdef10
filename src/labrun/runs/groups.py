"""Groups of keys in a run's record: how the record's dataclasses are read from its file and written to it.

A key that this version does not know comes from a later one, and is written back as it was read. So is a group or list
that the file holds as a value of another type, and a status that does not exist: the field is then empty. Plain values
are not checked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Self, TypedDict, get_args, get_type_hints


@dataclass
class Group:
    """Keys of a record that belong together."""

    more: dict[str, Any] = field(default_factory=dict, kw_only=True, repr=False)
    """Further keys: of a later version, or of the backend."""

    @classmethod
    def of(cls, content: object) -> Self:
        """Return the group that a record holds; an empty one if it holds something else."""
        known = dict(cls._typed(content)) if isinstance(content, Mapping) else {}
        names, groups, enums = layout(cls)
        more = {key: known.pop(key) for key in [key for key in known if key not in names]}
        for name, kind in groups.items():
            value = known.get(name)
            if isinstance(value, dict):
                known[name] = kind.of(value)
            elif value is not None:
                more[name] = known.pop(name)
        for name, words in enums.items():
            if known.get(name) is not None:
                try:
                    known[name] = words(known[name])
                except ValueError:
                    more[name] = known.pop(name)
        return cls(**known, more=more)

    @classmethod
    def _typed(cls, content: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the content with values of the types that readers rely on."""
        return content

    def as_json(self) -> dict[str, Any]:
        """Return the group as a record holds it."""
        return {**{name: plain(getattr(self, name)) for name in layout(type(self)).types}, **self.more}


class Layout(NamedTuple):
    """The fields of a dataclass."""

    types: dict[str, Any]
    """The type of each, in the order of the record."""
    groups: dict[str, type[Group]]
    """The kinds of those that are groups. `Job | None` is a group of the kind `Job`; so is each item of `list[Job]`."""
    enums: dict[str, type[StrEnum]]
    """The kinds of those that hold one of a set of words."""


_LAYOUTS: dict[type[Any], Layout] = {}
"""Records are read by the ten thousand, and the types of a class are slow to find."""


def layout(kind: type[Any]) -> Layout:
    """Return the fields of a dataclass."""
    if kind not in _LAYOUTS:
        hints = get_type_hints(kind)
        types = {one.name: hints[one.name] for one in dataclasses.fields(kind) if one.name != "more"}
        parts = [(name, part) for name, hint in types.items() for part in get_args(hint) if isinstance(part, type)]
        groups = {name: part for name, part in parts if issubclass(part, Group)}
        _LAYOUTS[kind] = Layout(types, groups, {name: part for name, part in parts if issubclass(part, StrEnum)})
    return _LAYOUTS[kind]


def plain(value: Any) -> Any:
    """Return a value of a record as plain dicts and lists."""
    if isinstance(value, Group):
        return value.as_json()
    return [plain(item) for item in value] if isinstance(value, list) else value


@dataclass
class Sparse(Group):
    """A group whose record holds only the keys that have a value."""

    def as_json(self) -> dict[str, Any]:
        """See `Group.as_json`."""
        values = ((name, getattr(self, name)) for name in layout(type(self)).types)
        return {**{name: plain(value) for name, value in values if value is not None}, **self.more}


@dataclass
class NotFinite(Sparse):
    """NaN or infinity that training ended with."""

    since: int | None = None
    """The first epoch of it."""
    what: str | None = None
    """`the loss is NaN`."""


@dataclass
class EarlyStop(Sparse):
    """The end of a training by early stopping."""

    epoch: int | None = None
    """The last epoch."""
    monitor: str | None = None
    """The metric that did not improve."""
    patience: int | None = None
    """Checks of the metric without improvement that were allowed."""


@dataclass
class Training(Sparse):
    """The training of a network."""

    epochs: int | None = None
    """Number of completed epochs."""
    tested: int | None = None
    """The epoch whose weights were tested, starting at 1."""
    why: str | None = None
    """Why that one: `the best by val/acc (the larger the better)`."""
    not_finite: NotFinite | None = None
    """None if all values were finite at the end."""
    stopped_early: EarlyStop | None = None
    """None if early stopping did not end it."""
    hyperparameters: dict[str, Any] | None = None
    """What the user's own trainer logged as hyperparameters."""


@dataclass
class ThreadChoice(Sparse):
    """A number of threads, and the reason for it."""

    count: int | None = None
    why: str | None = None


@dataclass
class ThreadUse(Sparse):
    """The threads that an attempt of a model uses."""

    allowed: int | None = None
    """The most that it may use."""
    training: ThreadChoice | None = None
    """None if it only scores."""
    scoring: ThreadChoice | None = None


@dataclass
class Imported(Sparse):
    """The import of a run from an archive."""

    file: str | None = None
    """Name of the archive."""
    time: str | None = None


class HydraFeatures(TypedDict, total=False):
    """The features of Hydra's jobs that apply around a run; a plain mapping, since its values are Hydra's nodes."""

    callbacks: dict[str, Any]
    """Nodes of the callbacks, by name."""
    job_logging: Any
    """The logging config of the job, if it is not labrun's."""
    verbose: bool | str | list[str]
    chdir: bool
    """True: it works in the run directory."""


@dataclass
class GitState(Group):
    """The state of the git repository that a run was submitted from."""

    commit: str | None = None
    branch: str | None = None
    dirty: bool | None = None
    """Whether files differed from the commit."""


@dataclass
class SweepMember(Sparse):
    """A run's place in its sweep."""

    folder: str | None = None
    """The sweep's folder."""
    number: int | str | None = None
    """The run's number in the sweep, or its name there: `best`."""


@dataclass
class ScriptCode(Sparse):
    """The snapshot of a script's source folder."""

    digest: str | None = None
    """SHA-256 of all its files."""
    folder: str | None = None
    """The copy in the workspace's store."""
    files: int | None = None
    """Number of its files."""
    bytes: int | None = None
    base: str | None = None
    """The source folder itself."""


@dataclass
class Code(Sparse):
    """The snapshot of the code at submission."""

    digest: str | None = None
    """SHA-256 of all its files."""
    sources: str | None = None
    """SHA-256 of its Python and YAML files, which a run's signature covers."""
    files: int | None = None
    """Number of its files."""
    bytes: int | None = None
    base: str | None = None
    """The tree that was copied: the top of the git work tree, or the working folder."""
    folder: str | None = None
    """The copy in the workspace's store."""
    working: str | None = None
    """The working folder, relative to `base`."""
    script: ScriptCode | None = None
    """For a script: its own folder."""
    environment: str | None = None
    """For a script with its own environment: the digest of that."""


@dataclass
class SampleReading(Sparse):
    """Whether the samples of a data set were held in memory, and why."""

    in_memory: bool | None = None
    why: str | None = None


@dataclass
class DataEntry(Sparse):
    """Data that a run has read: a data set, or a mount that its config refers to."""

    input: str | None = None
    """For a mount: the reference to it."""
    path: str | None = None
    """For a mount: where it was."""
    name: str | None = None
    """Name of the data set."""
    kind: str | None = None
    """For a data set with its own loaders: its class."""
    digest: str | None = None
    """SHA-256 of its files, or of what `signed_by` names."""
    signed_by: str | None = None
    """For a data set with its own loaders: what the digest covers."""
    files: int | None = None
    """Number of its files."""
    bytes: int | None = None
    """Their total size."""
    input_shape: list[int] | None = None
    """Shape of one sample."""
    classes: int | None = None
    """Number of classes."""
    train: int | None = None
    """Number of training samples."""
    validation: int | None = None
    """Number of validation samples."""
    test: int | None = None
    """Number of test samples."""
    class_names: list[str] | None = None
    """The first ones."""
    table: dict[str, Any] | None = None
    """For a table: how its columns were read."""
    notes: list[str] | None = None
    """What the reader reported."""
    content: str | None = None
    """For data made by the user's code: SHA-256 of the arrays."""
    reading: SampleReading | None = None
    """For a network: whether the samples were held in memory."""
    own_test: bool | None = None
    """Whether the data set has a test split of its own; None in older records."""
    datastore: str | None = None
    """Name of its datastore."""
    moved_bytes: int | None = None
    """Bytes that the run fetched."""
    asset: str | None = None
    """Name of its asset, if it is one."""
    version: str | None = None
    """The asset's version, a digest."""
    number: int | None = None
    """Number of the asset's version."""


@dataclass
class Host(Group):
    """A machine and its interpreter."""

    name: str | None = None
    platform: str | None = None
    """Operating system, with its version."""
    machine: str | None = None
    """Architecture: `x86_64`."""
    cpus: int | None = None
    """Cores that the process may use."""
    memory_gb: float | None = None
    """Memory, GiB."""
    gpus: list[str] | None = None
    """Model of each GPU."""
    python: str | None = None
    """Version of the interpreter."""
    executable: str | None = None
    """Path of the interpreter."""
