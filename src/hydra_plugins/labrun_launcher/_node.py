"""Settings of labrun's launcher."""

from __future__ import annotations

from typing import Any

NODE: dict[str, Any] = {
    "_target_": "hydra_plugins.labrun_launcher.launcher.LabrunLauncher",
    "target": "local",
    "max_parallel": None,
    "cpus_per_run": 1,
    "gpus_per_run": 0,
    "mem_gb": None,
    "timeout_min": None,
    "nodes": 1,
    "tasks_per_node": 1,
    "partition": None,
    "account": None,
    "qos": None,
    "setup": [],
    "extra": {},
    "srun_args": [],
    "show_output": False,
}
"""Settings for plain Hydra applications. labrun's own runs use `compute`."""
