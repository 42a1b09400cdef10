"""Checks of what a run inherits from another run's record: anybody may have written it, so its targets need trust."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from labrun.compose import paths
from labrun.config import instantiate, schema, trust
from labrun.errors import BY_OVERRIDE, TRUSTING, ConfigError
from labrun.runs.record import Record

RUNS_CODE = frozenset({"labrun.data.readers.GetData"})
"""labrun's own readers that execute a file given in the record."""
READERS = frozenset(name for name in schema.TARGETS if name.startswith("labrun.data.readers.")) - RUNS_CODE
DATASTORES = frozenset(schema.DATASTORES) | frozenset(schema.FORMER_DATASTORES)
"""labrun's own datastore targets."""
FOR_TRAINING = frozenset({"augmentation", "search_space"})
"""Keys of a data set's node that scoring does not build."""


LEARNED_WITH = ("torch.nn.", "torchmetrics.")
"""Packages whose losses and metrics need no trust."""


def check_learning(source: Record, trusted: Sequence[str]) -> None:
    """Check that the loss and the metrics of another run's model may be built: they are torch's or listed by the user.

    Raises:
        ConfigError: the record has other targets.
    """
    node = {key: source.typed.model.get(key) for key in ("loss", "metrics")}
    instantiate.check_references(node)
    named = dict.fromkeys(target for _, target in trust.named_targets({"_target_": "torch.nn.Module", **node}, "model"))
    unknown = [target for target in named if not target.startswith(LEARNED_WITH) and target not in trusted]
    own = set(_own_targets()) if unknown else set()
    unknown = [target for target in unknown if target not in own]
    if unknown:
        raise ConfigError(
            f"the model of run {source.id} uses {', '.join(unknown)}, which is neither torch's nor named in your "
            f"conf/. If you trust the author of the run, name it: {TRUSTING[BY_OVERRIDE]([*trusted, *unknown])}"
        )


def check(source: Record, group: str, trusted: Sequence[str], is_proven: bool) -> None:
    """Check that a group of another run's config, with its readers or its datastore, may be inherited.

    Allowed are labrun's own readers and datastores, targets in the user's own `conf/`, targets in `trusted`, and every
    config that this user has run in this workspace. For targets that execute a file given in the record, an entry in
    `conf/` is not enough.

    Args:
        source: the other run.
        group: `dataset` or `datastore`.
        trusted: further allowed targets, as spelled in the record.
        is_proven: whether the run's seal proves that this user has run this exact config here.

    Raises:
        ConfigError: it may not be inherited; the message says what to choose instead.
    """
    node = {key: value for key, value in source.config[group].items() if key not in FOR_TRAINING}
    instantiate.check_references(node)
    if is_proven:
        return
    known = {*(READERS if group == "dataset" else DATASTORES), *trusted}
    unknown = [target for _, target in trust.named_targets(node, group) if target not in known]
    own = set(_own_targets()) - RUNS_CODE if unknown else set()
    unknown = [target for target in dict.fromkeys(unknown) if target not in own]
    if unknown:
        runs_file = [target for target in unknown if target in RUNS_CODE]
        what = (
            f"{', '.join(runs_file)}, which executes the file {node.get('script')!r}, and nothing proves that you have "
            "run it on this machine"
            if runs_file
            else f"{', '.join(unknown)}, which is neither labrun's nor named in your conf/: it would run code that "
            "the record chooses"
        )
        raise ConfigError(
            f"the {group} of run {source.id} uses {what}. Choose the data yourself ({group}=...), or, if you trust "
            f"the author of the run, name it: {TRUSTING[BY_OVERRIDE]([*trusted, *unknown])}"
        )
    is_server = group == "datastore" and not schema.is_local_datastore(node)
    if is_server and source.imported is not None and node["_target_"] not in trusted:
        raise ConfigError(
            f"run {source.id} came from an archive, and its record names a server, which would receive your "
            "secrets: choose the datastore yourself (datastore=...)"
        )


def _own_targets() -> Iterator[str]:
    """Yield every `_target_` in the user's own configs."""
    import yaml

    folder = paths.user_conf_dir()
    for path in sorted(folder.rglob("*.yaml")) if folder else ():
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue
        yield from _targets(content)


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from _targets(value)
