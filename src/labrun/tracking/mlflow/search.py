"""Applies the filter and order of MLflow's `search_runs` to runs in the form of its REST API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def searched(found: Sequence[dict[str, Any]], content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Filter and sort runs according to a search request.

    Args:
        found: the runs.
        content: the request: `filter`, `order_by` and `max_results`.

    Raises:
        ValueError: the filter or the order cannot be parsed; the message is MLflow's.
    """
    from mlflow.entities import Run
    from mlflow.exceptions import MlflowException
    from mlflow.protos import service_pb2
    from mlflow.utils.proto_json_utils import parse_dict
    from mlflow.utils.search_utils import SearchUtils

    protos = [service_pb2.Run() for _ in found]
    for one, proto in zip(found, protos, strict=True):
        parse_dict(one, proto)
    runs: list[Any] = [Run.from_proto(proto) for proto in protos]
    try:
        kept = SearchUtils.sort(SearchUtils.filter(runs, content.get("filter")), content.get("order_by"))
    except MlflowException as error:
        raise ValueError(error.message) from error
    by_id = {one["info"]["run_id"]: one for one in found}
    return [by_id[run.info.run_id] for run in kept[: int(content.get("max_results") or 1000)]]
