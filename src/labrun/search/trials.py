"""Creates trials: the dimensions left to choose, the overrides of a choice, and its frozen job."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf

from labrun.compose.hydra_files import ConfigOrigin
from labrun.errors import ConfigError, LabrunError
from labrun.runs.groups import Code
from labrun.search.space import (
    Choice,
    Combination,
    Dimension,
    Space,
    as_element,
    component_dimensions,
    component_nodes,
    plain_key,
)
from labrun.submission import submit
from labrun.submission.submit import FrozenJob
from labrun.tasks.task import is_pipeline


class Trials:
    """Creates trials from overrides: composes and freezes their jobs.

    Args:
        compose: returns the config of a job, given its overrides and number.
        loader: Hydra's config loader, which knows the groups.
        freezer: freezes the jobs.
        space: the search space.
        folder: the sweep's folder.
        with_components: whether to include the components' own search spaces.
    """

    def __init__(
        self,
        compose: Callable[[Sequence[str], int], DictConfig],
        loader: ConfigLoader,
        freezer: submit.Freezer,
        space: Space,
        folder: Path,
        with_components: bool,
    ) -> None:
        self._compose, self._loader, self._freezer = compose, loader, freezer
        self.space, self.folder, self._with_components = space, folder, with_components
        self._parser = OverridesParser.create(config_loader=loader)
        self._space_keys = space.keys()
        self._groups: dict[str, bool] = {}
        self._known: dict[tuple[str, ...], list[Dimension]] = {}
        self._parts: dict[tuple[str, str], list[Dimension]] = {}
        self._configs: dict[tuple[str, ...], Any] = {}
        self.is_chosen: Callable[[str], bool] = lambda group: bool(loader.get_group_options(group))
        """Returns whether a name is that of a config group."""
        self.origin = ConfigOrigin()
        self.code: Code | None = None
        """Code that runs import, if not the current code."""

    def dimensions(self, overrides: list[str]) -> list[Dimension]:
        """Return the dimensions left to choose, given the choices so far."""
        chosen = {plain_key(text.partition("=")[0]) for text in overrides}
        if not overrides and self.space.dimensions:
            return list(self.space.dimensions)
        found = self._of_components(overrides) if self._with_components else []
        return [one for one in found if one.name not in chosen | self._space_keys]

    @property
    def is_whole(self) -> bool:
        """Whether the space is complete whatever is chosen, because no component adds a space of its own."""
        groups = [key for one in self.space.dimensions if isinstance(one, Choice) for key in one.keys]
        return not any(map(self.is_group, groups)) and not (self._with_components and self._of_components([]))

    def _of_components(self, overrides: list[str]) -> list[Dimension]:
        """Return the dimensions of the chosen components, without those below a group that is still to be chosen."""
        groups = [text for text in overrides if self.is_group(text.partition("=")[0])]
        key = tuple(groups)
        if key not in self._known:
            found: dict[str, Dimension] = {}
            for path, node in component_nodes(self._config(groups)):
                spot = (path, repr(node))
                if spot not in self._parts:
                    self._parts[spot] = list(component_dimensions(node, path, self._parser, self._loader))
                for one in self._parts[spot]:
                    # Outer components take precedence: they know more about the whole.
                    found.setdefault(one.name, one)
            self._known[key] = list(found.values())
        chosen = {plain_key(text.partition("=")[0]) for text in overrides} | self._space_keys
        open_ = [
            one.name
            for one in self._known[key]
            if isinstance(one, Choice) and one.name not in chosen and any(map(self.is_group, one.keys))
        ]
        return [one for one in self._known[key] if not any(one.name.startswith(f"{name}.") for name in open_)]

    def _config(self, groups: Sequence[str]) -> Any:
        """Return the config with these choices as plain dicts, interpolations unresolved."""
        key = tuple(groups)
        if key not in self._configs:
            config = self._compose([*self.space.fixed, *groups], 0)
            self._configs[key] = OmegaConf.to_container(config, resolve=False)
        return self._configs[key]

    def complete(self, parameters: Mapping[str, Any]) -> Combination:
        """Complete a portfolio entry with its components' default values.

        Raises:
            ConfigError: it has a key that is not searched, or a value outside the space.
        """
        whole: dict[str, str | int | float] = {}
        left = dict(parameters)
        overrides: list[str] = []
        while more := self.dimensions(overrides):
            config = self._config([text for text in overrides if self.is_group(text.partition("=")[0])])
            for one in more:
                value = left.pop(one.name, _at(config, one.name))
                found = _within(one, value)
                if found is None:
                    found = _within(one, one.labels[0] if isinstance(one, Choice) else one.low)
                    if one.name in parameters:
                        raise ConfigError(f"sweep.portfolio: {one.name}={value!r} is not in the search space")
                whole[one.name] = found
                overrides += one.overrides(found)
        fixed = {plain_key(text.partition("=")[0]): text.partition("=")[2] for text in self.space.fixed}
        for name, value in left.items():
            if name not in fixed:
                raise ConfigError(f"sweep.portfolio: {name} is not searched; the search has {', '.join(whole)}")
            if str(value) != fixed[name]:
                raise ConfigError(f"sweep.portfolio: {name}={value}, but it is fixed to {fixed[name]}")
        return whole

    def is_group(self, key: str) -> bool:
        """Return whether a key chooses an option of a config group."""
        name = key.lstrip("+~").partition("@")[0]
        if name not in self._groups:
            self._groups[name] = self.is_chosen(name)
        return self._groups[name]

    def job(self, overrides: Sequence[str], number: int, name: str | None = None) -> FrozenJob:
        """Compose and freeze the job of a trial.

        Args:
            overrides: the trial's choices.
            number: its number in the search.
            name: name of its folder; by default the number.

        Raises:
            ConfigError, RecordError: see `freeze.freeze`.
        """
        config = self._compose([*self.space.fixed, *overrides], number)
        made = self._freezer.freeze(config, self.folder / (name or str(number)))
        if self.code is not None:
            made.record.code = self.code
        # A pipeline search scores trials by cross-validation; only the best is refitted to all data, at the end.
        model = made.record.config.get("model") or {}
        if is_pipeline(model) and model["folds"]:
            model["refit"] = False
        return made

    def probes(self) -> list[FrozenJob]:
        """Create a job for the space's first values and one per group option, to find mistakes before anything runs.

        Raises:
            ConfigError: lists all mistakes.
        """
        problems: list[str] = []
        first = self._probed([], problems)
        if first is None:
            raise ConfigError(problems)
        if not first:
            return []
        jobs_ = [first[-1]]
        for one in first[:-1]:
            if isinstance(one, Choice) and any(self.is_group(key) for key in one.keys):
                for label in one.labels[1:]:
                    probed = self._probed([(one.name, label)], problems)
                    jobs_ += probed[-1:] if probed else []
        if problems:
            raise ConfigError(list(dict.fromkeys(problems)))
        return jobs_

    def _probed(self, wanted: Sequence[tuple[str, str]], problems: list[str]) -> list[Any] | None:
        """Return the dimensions of a trial with first values except for `wanted`, followed by its job."""
        chosen = dict(wanted)
        overrides: list[str] = []
        seen: list[Any] = []
        try:
            while more := self.dimensions(overrides):
                for one in more:
                    overrides += (
                        one.overrides(chosen[one.name])
                        if isinstance(one, Choice) and one.name in chosen
                        else _first(one)
                    )
                seen += more
            return [*seen, self.job(overrides, 0)] if seen else []
        except LabrunError as error:
            which = "".join(f"{name}={label}: " for name, label in wanted)
            problems.append(f"{which}{error}")
            return None


def _at(config: Any, name: str) -> Any:
    for key in name.split("."):
        config = config.get(key) if isinstance(config, Mapping) else None
    return config


def _within(one: Dimension, value: Any) -> Any:
    """Convert a value to the study's form; None if it lies outside the dimension."""
    if isinstance(one, Choice):
        texts = [str(value), as_element(value)]
        if isinstance(value, str):  # quotes do not matter: 'adam' and adam are equal
            texts += [QuotedString(value, quote).with_quotes() for quote in Quote]
        if isinstance(value, list):
            texts.append("[" + ",".join(str(item) for item in value) + "]")
        return next((label for label in one.labels if label in texts), None)
    if isinstance(value, bool) or not isinstance(value, int | float) or not one.low <= value <= one.high:
        return None
    if one.step is not None:
        value = one.low + round((value - one.low) / one.step) * one.step
    return int(value) if one.whole else float(value)


def _first(one: Dimension) -> list[str]:
    return one.overrides(one.labels[0]) if isinstance(one, Choice) else one.overrides(one.low)
