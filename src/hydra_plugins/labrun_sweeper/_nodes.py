"""Settings of labrun's sweeper, and of the sweepers that it replaces."""

from __future__ import annotations

from typing import Any

TARGET = "hydra_plugins.labrun_sweeper.sweeper.LabrunSweeper"
NODE: dict[str, Any] = {
    "_target_": TARGET,
    "_recursive_": False,
    "max_batch_size": None,
    "params": None,
    "sampler": None,
    "max_trials": None,
    "max_concurrent": None,
    "timeout_min": None,
    "goal": "minimize",
    "seed": 0,
    "zip": [],
    "resume": False,
    "max_failure_rate": None,
}
"""Settings for plain Hydra applications. labrun's own runs use `sweep`."""
OPTUNA: dict[str, Any] = {
    "_target_": TARGET,
    "_recursive_": False,
    "stands_for": "optuna",
    "defaults": [{"sampler": "tpe"}, "_self_"],
    "direction": "minimize",
    "storage": None,
    "study_name": None,
    "n_trials": 20,
    "n_jobs": 2,
    "max_failure_rate": 0.0,
    "resume": False,
    "params": None,
    "custom_search_space": None,
}
SAMPLERS = {
    "tpe": (
        "TPESampler consider_prior prior_weight consider_magic_clip consider_endpoints n_startup_trials "
        "n_ei_candidates multivariate warn_independent_sampling"
    ),
    "random": "RandomSampler",
    "cmaes": (
        "CmaEsSampler x0 sigma0 independent_sampler warn_independent_sampling consider_pruned_trials restart_strategy "
        "inc_popsize use_separable_cma"
    ),
    "nsgaii": "NSGAIISampler population_size mutation_prob crossover_prob swapping_prob constraints_func",
    "grid": "GridSampler search_space",
    "gp": "GPSampler",
    "qmc": "QMCSampler",
}
"""Sampler classes of Optuna, each followed by the keys that its sweeper has for it in addition to `seed`."""
AX: dict[str, Any] = {
    "_target_": TARGET,
    "_recursive_": False,
    "stands_for": "ax",
    "max_batch_size": None,
    "params": None,
    "ax_config": {},
    "resume": False,
}
NEVERGRAD: dict[str, Any] = {
    "_target_": TARGET,
    "_recursive_": False,
    "stands_for": "nevergrad",
    "optim": {},
    "parametrization": None,
    "params": None,
    "resume": False,
}
