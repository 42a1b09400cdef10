"""The requests to the helper on a remote machine (`helper.py`), and its answers. Only types, which no process imports.

A request is a line of JSON with `do`, the name of the request, `bytes`, the number of raw bytes that follow, and the
keys of its class below. Paths are relative to labrun's folder on the machine. An answer is a line with `ok` and
`bytes`, and the keys of its class, or those of `FailureAnswer`. The client sends the helper, so both are always of the
same version of labrun.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

Do = Literal[
    "hello",
    "have",
    "built",
    "put",
    "renew",
    "link",
    "begun",
    "store",
    "digests",
    "spawn",
    "begin",
    "wait",
    "news",
    "watch",
    "pull",
    "folders",
    "remove",
    "unused",
    "offer",
]
"""The requests: `Helper` has a method `do_...` for each."""


SpawnState = Literal["done", "running", "started"]
"""Of a process to start. `done`: the environment that it builds is complete; `running`: an earlier one is active."""


class FailureAnswer(TypedDict):
    """The answer to a request that is refused or cannot be fulfilled."""

    ok: Literal[False]
    why: str
    full: bool
    """Whether the disk has no room."""
    file: str | None
    """The file that cannot be used, if it is one."""


class HelloRequest(TypedDict):
    """See `Helper.do_hello`."""

    root: str
    """labrun's folder; may begin with `~` or a variable."""
    python: NotRequired[str | None]
    """Find this interpreter."""
    packages: NotRequired[bool]
    """List its packages."""
    programs: NotRequired[list[str]]
    """Find these programs on the PATH."""
    commands: NotRequired[dict[str, list[str]]]
    """Execute these commands, and return their output by the same names."""
    facts: NotRequired[bool]
    """Return the machine's facts."""
    full: NotRequired[bool]
    """With `facts`: include the interpreter's packages."""


class HaveRequest(TypedDict):
    """See `Helper.do_have`."""

    paths: list[str]


class FolderRequest(TypedDict):
    """See `Helper.do_built` and `Helper.do_remove`."""

    folder: str


class PutRequest(TypedDict):
    """See `Helper.do_put`; the bytes are the archive."""

    to: str
    """The new folder."""
    base: NotRequired[str]
    """An existing folder whose files the new one also gets, except those in the archive and those in `gone`."""
    gone: NotRequired[list[str]]
    digest: NotRequired[str]
    """With `base`: the expected digest of the result (`labrun.runs.files.tree_digest`)."""
    mark: NotRequired[list[str]]
    """Files of the new folder whose marks are returned."""
    marked: NotRequired[bool]
    """Store a list of the files next to the folder, and restore files that were removed since."""


class RenewRequest(TypedDict):
    """See `Helper.do_renew`; the bytes are the archive."""

    to: str
    without: list[str]
    """Paths in the folder to remove first."""


class LinkRequest(TypedDict):
    """See `Helper.do_link`."""

    store: str
    to: str
    files: dict[str, str]
    """The digests of the files, by name."""


class BegunRequest(TypedDict):
    """See `Helper.do_begun`."""

    store: str
    digests: list[str]


class StoreRequest(TypedDict):
    """See `Helper.do_store`; the bytes are the file's, from `start` on."""

    store: str
    digest: str
    start: NotRequired[int]


class DigestsRequest(TypedDict):
    """See `Helper.do_digests`."""

    files: list[str]
    """Absolute paths."""


class SpawnRequest(TypedDict):
    """See `Helper.do_spawn`."""

    claim: str
    """The claim file, which identifies the process."""
    log: str
    command: list[str]
    environment: dict[str, str]
    """Its variables, in addition to the helper's."""
    cwd: NotRequired[str]
    stdin: NotRequired[str]
    built: NotRequired[str]
    """The environment that the process builds: if it is complete, no process is started; otherwise its remains are
    removed."""
    fresh: NotRequired[str]
    """A file that only the new process may create; it is removed first."""
    refusal: NotRequired[str]
    """A file in which the process says why it ends; it is removed first."""


class WaitRequest(TypedDict):
    """See `Helper.do_wait`."""

    claim: str
    log: str
    file: str
    """The file to wait for."""
    patience_s: float
    seen: NotRequired[int]
    """The size of the log that the client knows."""
    refusal: NotRequired[str]


class BeginRequest(SpawnRequest):
    """See `Helper.do_begin`: a `SpawnRequest` and a `WaitRequest` in one."""

    file: str
    patience_s: float
    seen: NotRequired[int]


class SpawnAnswer(TypedDict):
    """The answer to `spawn`."""

    state: SpawnState
    seen: int
    """Size of the log of earlier processes."""


class WaitAnswer(TypedDict):
    """The answer to `wait`, and to `begin` unless the environment was complete."""

    there: bool
    """Whether the file exists."""
    lives: bool
    """Whether the process is active."""
    log: str
    """What the log has gained, limited in length."""
    seen: int
    """The log's size."""
    refusal: NotRequired[str]
    """The content of the process's `refusal`."""


class KnownFolder(TypedDict):
    """What the client knows of a folder."""

    runs: list[str] | None
    """The runs to report; None: all."""
    without: NotRequired[list[str]]
    """Runs not to report."""
    seen: dict[str, dict[str, Any]]
    """By run, and by name of its file: the size of a growing file that was received, or the mark of another one."""


class NewsRequest(TypedDict):
    """See `Helper.do_news`."""

    folders: dict[str, KnownFolder]
    leave: NotRequired[dict[str, dict[str, str]]]
    """Requests to write: by folder, then by path in it, the content."""
    said: NotRequired[dict[str, dict[str, list[str]]]]
    """Annotations to add: by folder, then by run, the lines."""


class WatchRequest(TypedDict):
    """See `Helper.do_watch`."""

    folders: list[str]
    patience_s: float
    """When to answer without a change."""
    gather_s: float
    """How long a change waits for further ones."""


class PullRequest(TypedDict):
    """See `Helper.do_pull`."""

    folders: dict[str, dict[str, list[int]]]
    """The files that the client has, by folder and name: size and time in seconds."""
    parts: list[str]
    """Files and folders to fetch from each folder."""
    begun: NotRequired[dict[str, dict[str, list[int]]]]
    """Files of which the client has a part, by folder and name: size, time in nanoseconds, size of the part."""


class UnusedRequest(TypedDict):
    """See `Helper.do_unused`."""

    remove: NotRequired[list[str]]


class OfferRequest(TypedDict):
    """See `Helper.do_offer`."""

    text: str


class SentFolder(TypedDict):
    """A folder of runs that was sent to the machine."""

    workspace: str
    folder: str
    runs: dict[str, list[str | None]]
    """Id, status and submission time of each run."""
    search: bool
    living: bool
    """Whether it has a controller."""


Grown = dict[str, list[int]]
"""New ends of files: name -> [start, number of bytes]."""
Mark = list[int]
"""Identifies the version of a file (`helper.mark_of`)."""


class RunNews(TypedDict):
    """The changes of one run."""

    files: Grown
    age: float | None
    """Age of its heartbeat, in seconds; None if it has none."""
    record: NotRequired[int]
    """Number of bytes of its record; missing if the record has not changed, or is held back."""
    mark: NotRequired[Mark]
    """Mark of the record; comes with `record`."""
    said: NotRequired[int]
    """Number of bytes of its annotations; missing if they have not changed."""
    said_mark: NotRequired[Mark]


class FolderNews(TypedDict):
    """The changes in the folder of a sweep or of a run."""

    there: bool
    """Whether the folder exists."""
    living: bool
    """Whether it has a controller."""
    over: bool
    """Whether its search has ended."""
    runs: dict[str, RunNews]
    """Runs with changes, by name."""
    files: Grown
