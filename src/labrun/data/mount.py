"""Mounting: give a run a local path to read. A local folder is used where it is; not a byte of it is changed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labrun.data.datastore import LocalDatastore

log = logging.getLogger(__name__)


def mount(datastore: Mapping[str, Any], asset: str) -> Path:
    """The local folder below which a data set's reader looks.

    Args:
        datastore: the config's `datastore`.
        asset: the data set's name, for the log.
    """
    store = LocalDatastore(str(datastore["name"]), Path(str(datastore["root"])).expanduser().resolve())
    log.info("Mounting input '%s' from datastore '%s' ... Mounted at %s", asset, store.name, store.root)
    return store.root
