"""A run's inputs, resolved at submission: the datastores that it uses, and the version of each asset."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from labrun._io import FileStamp
from labrun.compose import paths
from labrun.config import exact, masking, schema, validation
from labrun.config.instantiate import Node
from labrun.config.references import guarded, references, resolve_environment, resolved
from labrun.errors import ConfigError
from labrun.messages import suggest

OWN = "datastore"


def pin_versions(config: dict[str, Any], pinned: dict[str, Any] | None = None) -> None:
    """Pin the newest version of each asset that a config mounts, and store the datastores that its mounts use.

    A run that waits in a queue then reads the data of the time of its submission.

    Args:
        config: the config for the record; changed in place.
        pinned: versions that were already looked up.

    Raises:
        ConfigError: a mount is empty.
        DataError: a datastore cannot be reached, or has no such asset or folder.
    """
    pinned = {} if pinned is None else pinned
    texts = list(dict.fromkeys(references(guarded(config))))
    names = paths.groups().get(OWN, {}) if any("/" in text for text in texts) else {}
    others = {}
    for text in texts:
        if not text:
            raise ConfigError("${mount:} is empty: give an asset, a folder, or DATASTORE/folder")
        first, slash, _ = text.partition("/")
        if slash and first in names and first != config[OWN]["name"]:
            others[first] = load(first, keep_environment=True)
    if others:
        config["datastores"] = others
    there = resolve_environment({OWN: config[OWN], "datastores": others, "dataset": config.get("dataset")})
    new = {text: _pin(text, there, pinned) for text in texts}
    config.update(resolved(guarded(config), lambda text: "${mount:" + new[text] + "}"))
    if not there["dataset"] or schema.has_loaders(there["dataset"]):  # its mounts list its inputs
        return
    made = None
    if not schema.is_local_datastore(there[OWN]):
        from labrun.data import reader  # loads NumPy

        made = reader.make_reader(there["dataset"])
    if made is None or made.candidates() is not None or there["dataset"].get("asset"):
        looked = _look_up_version(there[OWN], there["dataset"], made, pinned)
        if looked is not None:
            config["dataset"]["version"] = looked


def make_absolute(dataset: dict[str, Any], node: Node) -> None:
    """Make a data set's paths absolute for files that exist in the working folder but not in the datastore.

    Args:
        dataset: the data set's node; changed in place.
        node: the datastore's node, resolved.
    """
    if not str(dataset.get("_target_", "")).startswith("labrun.data.readers."):
        return
    settings = schema.DatasetSettings.of(dataset)
    if settings.asset or settings.version is not None:
        return
    given = {key: str(dataset[key]) for key in ("path", "test_path") if isinstance(dataset.get(key), str)}
    here = {key: Path.cwd() / path for key, path in given.items() if "${" not in path and Path(path).is_file()}
    if not here or not schema.is_local_datastore(node):
        return
    from labrun.data import assets, stores

    root = Path(str(node["root"])).expanduser()
    if assets.find(stores.make({**node, "root": str(root.resolve())}), settings.name) is not None:
        return
    dataset.update({key: str(path) for key, path in here.items() if not (root / given[key]).exists()})


def _look_up_version(node: dict[str, Any], dataset: dict[str, Any], made: Any, pinned: dict[str, Any]) -> int | None:
    from labrun.data import mount

    settings = schema.DatasetSettings.of(dataset)
    key = exact.canonical([node, settings.place, settings.version, dataset.get("path")])
    if key not in pinned:
        candidates = [settings.place, *((made.candidates() or ()) if made is not None else ())]
        wanted = mount.of_dataset(node, settings, candidates)
        asset = wanted.find_asset()
        if asset is None:
            wanted.look()
        pinned[key] = None if asset is None else asset.number
    number = pinned[key]
    return None if number is None else int(number)


def _pin(text: str, there: dict[str, Any], pinned: dict[str, Any]) -> str:
    """Return a mount reference with the version of its asset added."""
    from labrun.data import mount

    key = exact.canonical([there[OWN], there["datastores"], text])
    if key not in pinned:
        wanted = mount.referred(text, there[OWN], there["datastores"])
        asset = wanted.find_asset()
        wanted.look()
        pinned[key] = text if asset is None else f"{text.partition('@')[0]}@{asset.number}"
    return str(pinned[key])


def load(name: str, keep_environment: bool = False, changes: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the node of a datastore, read only from its file.

    Args:
        name: the option of the group `datastore`.
        keep_environment: keep references to the environment unresolved.
        changes: overrides of its keys, as `key=value`.

    Raises:
        ConfigError: there is no such datastore, or its keys are invalid.
    """
    path = next(
        (
            p
            for folder in (paths.user_conf_dir(), paths.conf_dir())
            if folder and (p := folder / OWN / f"{name}.yaml").is_file()
        ),
        None,
    )
    if path is None:
        there = list(paths.groups().get(OWN, {}))
        raise ConfigError(f"there is no datastore '{name}'.{suggest(name, there)} There are: {', '.join(there)}")
    try:
        node = OmegaConf.load(path)
        assert isinstance(node, DictConfig)
        if "defaults" in node:
            raise ConfigError(f"{path}: a datastore's file is read alone, so it cannot have a list of defaults")
        node = _changed(node, changes, name)
        plain = OmegaConf.to_container(node, resolve=False)
        assert isinstance(plain, dict)
        missing = [str(key) for key, value in plain.items() if value == "???"]
        if missing:
            raise ConfigError(f"datastore.{missing[0]} has no value: {path} requires you to set it")
        kept = {str(key): value for key, value in plain.items()}
        validation.check_secrets(kept)
        masking.register()
        found = OmegaConf.to_container(OmegaConf.create(kept), resolve=True)
        assert isinstance(found, dict)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "a key"
        raise ConfigError(f"{path}, {key}: {masking.reason(error)}") from error
    values = {str(key): value for key, value in found.items()}
    problems = list(validation.check_datastore(values))
    if problems:
        raise ConfigError(problems)
    if schema.is_local_datastore(values):
        is_typed = any(change.partition("=")[0] == "root" for change in changes)
        root = Path(values["root"]).expanduser()
        kept["root"] = values["root"] = str((root if is_typed else paths.home() / root).resolve())
    return kept if keep_environment else values


def _changed(node: DictConfig, changes: Sequence[str], name: str) -> Any:
    """Return a datastore's node with overrides of its keys.

    Raises:
        ConfigError: an override is not `key=value`, or labrun's own class of datastore has no such key.
    """
    known = [str(key) for key in node]
    is_ours = "_target_" in node and schema.datastore_target(node) in schema.DATASTORES
    for change in changes:
        key, equals, _ = change.partition("=")
        if not equals or (key.partition(".")[0] not in known and is_ours):
            raise ConfigError(f"{change!r} is not a key=value of datastore '{name}'. Its keys: {', '.join(known)}")
    return OmegaConf.merge(node, OmegaConf.from_dotlist(list(changes)))


def default_name() -> str:
    """Return the default datastore of runs, from the user's config or from ours."""
    for folder in (paths.user_conf_dir(), paths.conf_dir()):
        path = folder / "config.yaml" if folder else None
        if path is None or not path.is_file():
            continue
        if (found := _default_of(path, FileStamp.of(path))) is not None:
            return found
    return "local"


@functools.lru_cache(maxsize=16)
def _default_of(path: Path, stamp: FileStamp) -> str | None:
    """Return the datastore in a config's defaults; cached until the file changes, since reading takes 15 ms."""
    defaults = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    for entry in defaults.get("defaults", []) if isinstance(defaults, dict) else []:
        if isinstance(entry, dict):
            for key, value in entry.items():
                if str(key).removeprefix("override ").lstrip("/") == OWN and isinstance(value, str):
                    return value
    return None
