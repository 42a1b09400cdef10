"""What must be there before runs start: their data, and the environments of scripts.

It imports little, as the controller on a remote machine needs this much of a submission only.
"""

from __future__ import annotations

from labrun.config.references import references, resolve_environment
from labrun.config.schema import Config


def prepare(config: Config) -> None:
    """Fetch missing data if possible, once, before any run starts; build a script's environment.

    Args:
        config: a run's resolved config.

    Raises:
        MissingDataError: the data are missing and cannot be fetched.
    """
    if config.script is not None:
        from labrun.submission import environments

        environments.prepare(config.script)
        return
    if config.has_loaders:
        return  # a data module prepares its data itself, where the run is executed
    from labrun.data import mount, reader

    there = Config(resolve_environment({"dataset": config.dataset, "datastore": config.datastore}))
    root = mount.local_root(there.datastore, there.dataset)
    if root is not None and not any(references(there.dataset)):
        reader.prepare(there.dataset, root)
