"""Mistakes in overrides that parse: options and keys that do not exist.

To find what exists, configs are composed: first with the valid group choices, then with each key on top of them, as
Hydra would set it. An unknown key is searched for elsewhere: below another node, in options that are not chosen, and
among the groups.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, OverrideType
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from labrun.compose import composed, paths
from labrun.config import targets, validation
from labrun.config.checking import pairs
from labrun.errors import ConfigError
from labrun.mistakes.composed import Composable, can_be_set, composable, dotted, is_a_value, is_node, misfit
from labrun.mistakes.flags import Split, split_words
from labrun.mistakes.mistake import FRONT, Mistake

SYNONYMS = pairs(
    "learning_rate:lr eta:lr epochs:max_epochs num_epochs:max_epochs n_epochs:max_epochs "
    "nb_epochs:max_epochs num_train_epochs:max_epochs bs:batch_size batch:batch_size random_seed:seed "
    "random_state:seed gpus:gpus_per_run n_jobs:cpus_per_run num_workers:cpus_per_run n_trials:max_trials "
    "iterations:max_iter time_limit:timeout_min"
)
"""Names that other tools use for labrun's keys."""
OPTIONS = {
    ("sweep", "bayes"): "tpe",
    ("sweep", "bayesian"): "tpe",
    ("sweep", "optuna"): "tpe",
    ("compute", "cuda"): "gpu",
    ("compute", "cpu"): "local",
    ("compute", "cluster"): "slurm",
}
"""Names that other tools use for labrun's options, by group."""
NODES = "compute.max_parallel: runs at once; compute.nodes: machines for one run (compute=slurm)"
NOTES = {"compute.min_nodes": NODES, "compute.max_nodes": NODES}
"""Advice for keys of other tools without a close equivalent."""
LEVELS = 6
"""Maximum number of parent folders to search for a `conf/`."""
LISTED = 24
"""Maximum number of keys or options listed in a message."""
MAX_COMPOSED = 16
"""Maximum number of configs to compose for one command line."""


def check(words: Sequence[str], split: Split) -> list[Mistake]:
    """Return the mistakes in overrides that choose unknown options or set unknown keys.

    Args:
        words: the command-line arguments, all of whose overrides parse.
        split: the same, split into flags and overrides.
    """
    parser = OverridesParser.create()
    parsed = [(place, parser.parse_override(words[place])) for place in split.overrides]
    own = [(place, one) for place, one in parsed if not one.is_hydra_override()]
    there = composable(split)
    is_sweep = "--multirun" in split.values or _requests_sweep(there, [one for _, one in parsed])
    return list(_Search(there, words, own, is_sweep).mistakes())


def _requests_sweep(there: Composable, parsed: Sequence[Override]) -> bool:
    """Whether a chosen config makes the command a sweep (`hydra.mode`)."""
    if not any(one.is_sweep_override() for one in parsed):
        return False
    plain = [str(one.input_line) for one in parsed if not one.is_sweep_override()]
    choices = [text for text in plain if text.partition("=")[0] in ("experiment", "debug", "sweep", "hydra.mode")]
    config = there.compose(choices)
    return config is not None and bool(config.hydra.mode == RunMode.MULTIRUN)


def groups_as_keys(words: Sequence[str]) -> list[Mistake]:
    """Return overrides that set a key to text although it is a group: Hydra would replace the whole node."""
    split = split_words(words)
    parser = OverridesParser.create()
    parsed = [(place, parser.parse_override(words[place])) for place in split.overrides]
    own = [(place, one) for place, one in parsed if "." in one.key_or_group and not one.is_hydra_override()]
    search = _Search(composable(split), words, own, is_sweep=True)
    return [found for place, one in own if (found := search.group_as_key(place, one)) is not None]


def unfit(words: Sequence[str], split: Split) -> list[str]:
    """Return the schema errors of a command line that composes, so that it is not suggested to the user.

    Args:
        words: the command-line arguments.
        split: the same, split into flags and overrides.
    """
    if {"--multirun", "--cfg", "--help", "--info"} & set(split.values):
        return []
    config = composable(split).compose([words[place] for place in split.overrides])
    if config is None:
        return []
    try:
        composed.validated(config)
    except ConfigError as error:
        return error.problems
    return []


class _Search:
    """Compares the overrides of one command line with the options and keys that exist."""

    def __init__(
        self, there: Composable, words: Sequence[str], parsed: Sequence[tuple[int, Override]], is_sweep: bool
    ) -> None:
        self.there, self.words, self.parsed, self.is_sweep = there, words, parsed, is_sweep
        # A run that scores another run's model is composed with the data of that run.
        scoring = [one for _, one in parsed if one.key_or_group in ("task", "from") and not one.is_sweep_override()]
        self.chosen: list[str] = [str(one.input_line) for one in scoring] if len(scoring) == 2 else []
        """Group choices that compose together."""
        self.tried = 0

    def mistakes(self) -> Iterator[Mistake]:
        """Yield all mistakes: first those in group choices, which determine the keys that exist."""
        if not self.is_sweep:
            several = [_several(self.words[place], place, one) for place, one in self.parsed if one.is_sweep_override()]
            if several:
                yield from several
                return
        keys: list[tuple[int, Override]] = []
        waiting: list[tuple[int, Override]] = []
        for place, one in self.parsed:
            if not self.there.options(one.key_or_group):
                keys.append((place, one))
            elif (found := self._option(place, one)) is not None:
                yield found
                mended = list(found.fix.get(place, ()))  # keys are searched for in the suggested option
                if self.there.compose([*self.chosen, *mended]) is not None:
                    self.chosen += mended
            else:
                waiting.append((place, one))
        for place, one in waiting:
            if (found := self._slot(place, one)) is not None:
                yield found
        config = self.there.compose(self.chosen)
        if config is None:
            return
        found_any = False
        for place, one in keys:
            if (found := self._key(place, one, config)) is not None:
                found_any = True
                yield found
        swept = [one for _, one in waiting if one.is_sweep_override()]
        if swept and not found_any:
            yield from self._of_swept(swept, [(place, one) for place, one in keys if one.type == OverrideType.CHANGE])

    def _of_swept(self, swept: Sequence[Override], keys: Sequence[tuple[int, Override]]) -> Iterator[Mistake]:
        """Yield mistakes with keys that only options of a swept group have, and the config of the sweep does not."""
        groups = {one.key_or_group: [str(value) for value in _values(one)] for one in swept}
        others = [text for text in self.chosen if text.partition("=")[0] not in groups]
        config = self.there.compose(others)
        if config is None:
            return
        for place, one in keys:
            if can_be_set(config, one):
                continue
            for group, options in groups.items():
                lacking = [
                    o
                    for o in options
                    if (own := self.there.compose([*others, f"{group}={o}"])) is None or not can_be_set(own, one)
                ]
                new = f"++{self.words[place]}"
                if not lacking:
                    yield Mistake(
                        f"{one.key_or_group} is a key of each {group} that is swept, and not of the sweep's own "
                        f"configuration: two '+' set it in every run. Did you mean {new!r}?",
                        {place: [new]},
                    )
                elif len(lacking) < len(options):
                    yield Mistake(
                        f"{one.key_or_group}: {group}={','.join(lacking)}, which is swept too, has no such key. "
                        f"Sweep only those that have it ({group}={','.join(o for o in options if o not in lacking)}), "
                        "or leave the key out"
                    )

    def _option(self, place: int, one: Override) -> Mistake | None:
        """Return the mistake if an option of a group does not exist."""
        group, options = one.key_or_group, self.there.options(one.key_or_group)
        for value in _values(one):
            names = value if isinstance(value, list) else [value]
            for name in names:
                text = "" if name is None else str(name)
                known = {*options, *self.there.loader.get_group_options(group)}
                if name is None or text in known or one.type == OverrideType.DEL or text.startswith("/"):
                    continue
                return self._no_option(place, one, text, options)
        return None

    def _no_option(self, place: int, one: Override, text: str, options: Sequence[str]) -> Mistake:
        group, word = one.key_or_group, self.words[place]
        if not text:
            return Mistake(
                f"{word!r} names no {group}: there is nothing after the '=' (is a shell variable empty?). "
                f"There are: {_listed(options)}"
            )
        said = f"{word}: there is no {group} {text!r}"
        stem = text.removesuffix(".yaml").removesuffix(".yml").rpartition("/")[2]
        stem = stem if stem in options else OPTIONS.get((group, stem), stem)
        near = stem if stem in options else next((o for o in options if o.lower() == stem.lower()), None)
        others = [other for other, names in self.there.groups.items() if stem in names and other != group]
        near = near or _nearest(stem, options)
        if others and (near is None or stem not in options):
            listed = " or ".join([*(f"{other}={stem}" for other in others), *([f"{group}={near}"] if near else [])])
            fix = {place: [f"{others[0]}={stem}"]} if len(others) == 1 and near is None else {}
            return Mistake(f"{said}. Did you mean {listed}? Of {group} there are: {_listed(options)}", fix)
        if near is None or one.is_sweep_override():
            hint = "" if near is None else f" Did you mean {near!r}?"
            return Mistake(f"{said}.{hint} There are: {_listed(options)}{_above(group, text)}")
        new = f"{word.partition('=')[0]}={word.partition('=')[2].replace(text, near, 1)}"
        return Mistake(f"{said}. Did you mean {near!r}? There are: {_listed(options)}", {place: [new]})

    def _slot(self, place: int, one: Override) -> Mistake | None:
        """Return the mistake if an option exists, but its group cannot be chosen with the other options."""
        word = self.words[place]
        values = _values(one)
        prefix, group = word.partition("=")[0], one.key_or_group
        texts = [word] if not one.is_sweep_override() else [f"{prefix}={value}" for value in values[:1]]
        if self.there.compose([*self.chosen, *texts]) is not None:
            self.chosen += texts
            return None
        if one.type == OverrideType.ADD and self.there.compose([*self.chosen, texts[0].lstrip("+")]) is not None:
            new = word.lstrip("+")
            return Mistake(
                f"{word}: {group} is chosen already, so leave out the '+'. Did you mean {new!r}?", {place: [new]}
            )
        above = group.rpartition("/")[0]
        options = self._that_take(above, texts) if above else []
        if options:
            own = self._choice(above)
            also = f" (or {', '.join(f'{above}={o}' for o in options[1:4])})" if options[1:] else ""
            words = [f"{above}={options[0]}", word]
            return Mistake(
                f"{word}: {above}={own} has no {group.rpartition('/')[2]} to choose. Choose {_kind(above, group)} that "
                f"has one: {' '.join(words)}{also}",
                self._with_choice(place, above, options[0], [word]),
            )
        return None

    def _that_take(self, group: str, overrides: Sequence[str]) -> list[str]:
        """Return the options of a group with which overrides compose; those for the chosen data or any data first."""
        found = []
        for option in self.there.options(group):
            if option == self._choice(group) or self.tried >= MAX_COMPOSED:
                continue
            self.tried += 1
            choices = [one for one in self.chosen if one.partition("=")[0] != group]
            if self.there.compose([*choices, f"{group}={option}", *overrides]) is not None:
                found.append(option)
        comments = paths.groups().get(group, {})
        data = str(self._choice("dataset"))
        return sorted(found, key=lambda o: (not o.startswith(data), "any input" not in comments.get(o, ""), o))

    def _choice(self, group: str) -> str:
        """Return the chosen option of a group."""
        config = self.there.compose(self.chosen)
        choices: Mapping[str, Any] = {} if config is None else config.hydra.runtime.choices
        return str(choices.get(group))

    def _with_choice(self, place: int, group: str, option: str, words: Sequence[str]) -> dict[int, list[str]]:
        """Return the fix that chooses another option of a group, in place of the typed choice, if any."""
        old = next((at for at, one in self.parsed if one.key_or_group == group), None)
        new = f"{group}={option}"
        return {place: [new, *words]} if old is None else {old: [new], place: list(words)}

    def _key(self, place: int, one: Override, config: DictConfig) -> Mistake | None:
        """Return the mistake if a key does not exist, or has a wrong `+` or `~`."""
        word = self.words[place]
        if can_be_set(config, one):
            return self.group_as_key(place, one)
        key = one.key_or_group
        if one.package is not None and not self.there.options(key):
            return Mistake(f"{word}: there is no group {key!r}. Groups: {_listed(self.there.groups)}")
        if one.type == OverrideType.ADD:
            new = word.lstrip("+")
            return Mistake(f"{word}: {key} exists already, so leave out the '+'. Did you mean {new!r}?", {place: [new]})
        if (added := self._added(place, one, config)) is not None:
            return added
        if (why := misfit(config, one)) is not None:
            return Mistake(f"{word}: {why}")
        if is_a_value(config, key):
            above = key.rpartition(".")[0]
            return Mistake(f"{word}: {above} is a value and holds no keys")
        return self._unknown_key(place, one, config)

    def _added(self, place: int, one: Override, config: DictConfig) -> Mistake | None:
        """Return the mistake if a new key lacks its `+`, below an empty node that takes keys of any name."""
        above, new = one.key_or_group, f"+{self.words[place]}"
        if not isinstance(one.value(), dict):
            above = above.rpartition(".")[0]
        node = OmegaConf.select(config, above, throw_on_missing=False) if above else None
        if one.type != OverrideType.CHANGE or not isinstance(node, DictConfig) or len(node):
            return None
        return Mistake(
            f"{self.words[place]}: {above} has no keys yet; a new one begins with '+'. Did you mean {new!r}?",
            {place: [new]},
        )

    def group_as_key(self, place: int, one: Override) -> Mistake | None:
        """Return the mistake if an option of a group is written as the value of a key."""
        group, values = one.key_or_group.replace(".", "/"), _values(one)
        if group == one.key_or_group or one.type == OverrideType.DEL or not self.there.options(group):
            return None
        if not all(isinstance(value, str) for value in values):
            return None
        word = self.words[place]
        new = f"{group}={word.partition('=')[2]}"
        options = self.there.options(group)
        wrong = [str(value) for value in values if str(value) not in options]
        if wrong:
            near = _nearest(wrong[0], options)
            hint = f" Did you mean '{group}={near}'?" if near else ""
            fix = {place: [f"{group}={near}"]} if near and not one.is_sweep_override() else {}
            return Mistake(
                f"{word}: an option of a group is chosen with slashes, and {group} has no {wrong[0]!r}.{hint} "
                f"There are: {_listed(options)}",
                fix,
            )
        return Mistake(f"{word}: an option of a group is chosen with slashes. Did you mean {new!r}?", {place: [new]})

    def _unknown_key(self, place: int, one: Override, config: DictConfig) -> Mistake:
        """Return the mistake for an unknown key, with the most likely correction."""
        key = one.key_or_group
        said = f"{self.words[place]}: no such key" if one.type == OverrideType.DEL else f"{key}: no such key"
        note = f" {NOTES[key]}." if key in NOTES else ""
        return (
            self._meant_choice(place, one, config, said)
            or self._meant_new_key(place, one, config, said)
            or self._meant_other_key(place, one, config, said)
            or self._meant_other_option(place, one, config)
            or Mistake(f"{said}.{note} {self._there(config, key)}")
        )

    def _meant_choice(self, place: int, one: Override, config: DictConfig, said: str) -> Mistake | None:
        """Return the mistake if an unknown key may be the choice of an option."""
        tail = self.words[place].partition("=")[2]
        for group, value in self._as_choice(one):
            new = f"{group}={value}" if not one.is_sweep_override() else f"{group}={tail}"
            if self.there.compose([*self.chosen, f"{group}={value}"]) is not None:
                return Mistake(f"{said}. Did you mean {new!r}? {self._there(config, one.key_or_group)}", {place: [new]})
            above = group.rpartition("/")[0]
            options = self._that_take(above, [f"{group}={value}"]) if above else []
            if options:
                own = self._choice(above)
                return Mistake(
                    f"{said}. {above}={own} has no {group.rpartition('/')[2]} to choose. Choose {_kind(above, group)} "
                    f"that has one: {above}={options[0]} {new}",
                    self._with_choice(place, above, options[0], [new]),
                )
        return None

    def _meant_new_key(self, place: int, one: Override, config: DictConfig, said: str) -> Mistake | None:
        """Return the mistake if an unknown key lacks its `+`: the target or the network takes it, the file lacks it."""
        word, key = self.words[place], one.key_or_group
        above, _, name = key.rpartition(".")
        target = OmegaConf.select(config, f"{above}._target_") if above and one.type != OverrideType.DEL else None
        if isinstance(target, str) and targets.takes(target, name):
            new = f"+{_renamed(word, key).lstrip('+')}"
            return Mistake(
                f"{said}, and {above}={self._choice(above)} takes it: a key that its file does not list begins with "
                f"'+'. Type {new!r}, or add {name} to the file",
                {place: [new]},
            )
        if (
            key.split(".")[:1] == ["model"]
            and one.type == OverrideType.CHANGE
            and key.split(".")[1] in validation.LEARNING
        ):
            new = f"+{_renamed(word, key)}"
            return Mistake(
                f"{said} in the file of model={self._choice('model')}, and networks have it: a key that the file does "
                f"not list begins with '+'. Did you mean {new!r}?",
                {place: [new]},
            )
        return None

    def _meant_other_key(self, place: int, one: Override, config: DictConfig, said: str) -> Mistake | None:
        """Return the mistake if an unknown key resembles a group or a key that exists."""
        word, key = self.words[place], one.key_or_group
        known = [name for name in dotted(config) if one.type == OverrideType.DEL or not is_node(config, name)]
        found = _nearby(key, known)
        tops = [group for group in self.there.groups if "/" not in group]
        meant = None if "." in key or one.type == OverrideType.DEL else _nearest(key, tops, cutoff=0.75)
        if meant is not None and (not found or "." in found[0]):
            there, option = _listed(self.there.options(meant)), word.partition("=")[2]
            return Mistake(f"{said}. Did you mean {meant!r}? There is no {meant} {option!r}; there are: {there}")
        if found and not self._is_closer_in_another_option(key, found[0]):
            near = found[0]
            also = f" (or {', '.join(found[1:4])})" if found[1:] else ""
            return Mistake(
                f"{said}. Did you mean {near!r}?{also} {self._there(config, key)}", {place: [_renamed(word, near)]}
            )
        return None

    def _meant_other_option(self, place: int, one: Override, config: DictConfig) -> Mistake | None:
        """Return the mistake if options that are not chosen have an unknown key."""
        key = one.key_or_group
        found = self._in_options(key)
        if not found:
            return None
        group, option, name = found[0]
        own = self._choice(group)
        new = _renamed(self.words[place], name)
        others = [o for g, o, n in found if (g, n) == (group, name) and o != option]
        also = f" (or {', '.join(f'{group}={o}' for o in others[:3])})" if others else ""
        what = f"{group}={own} has no such key" if key == name else f"no such key, and {group}={own} has no {name}"
        return Mistake(
            f"{key}: {what}. Choose {_kind(group, name)} that has it: {group}={option} {new}{also}. "
            f"{self._there(config, name)}",
            self._with_choice(place, group, option, [new]),
        )

    def _as_choice(self, one: Override) -> list[tuple[str, str]]:
        """Return the group choices that a key and its value may have meant, as pairs of group and option."""
        if one.type == OverrideType.DEL:
            return []
        values = [value for value in _values(one) if isinstance(value, str)]
        if not values:
            return []
        value, key = values[0], one.key_or_group.replace(".", "/")
        holding = [group for group, options in self.there.groups.items() if all(v in options for v in values)]
        last = key.rpartition("/")[2]
        same = [group for group in self.there.groups if group.rpartition("/")[2] == last]
        near = _nearest(key, list(self.there.groups), cutoff=0.6)
        ordered = [g for g in same if g in holding] + ([near] if near in holding and near is not None else [])
        if not ordered and len(key.split("/")) == 1:
            ordered = [group for group in holding if group != "experiment"] or holding
        return [(group, value) for group in dict.fromkeys(ordered)]

    def _is_closer_in_another_option(self, key: str, near: str) -> bool:
        """Whether an option that is not chosen has the key, and the close match only resembles it or has no effect."""
        if near.startswith("sweep.") and not self.is_sweep:  # a single run ignores it
            return bool(self._in_options(key))
        if near.rpartition(".")[2] == key.rpartition(".")[2]:
            return False
        return any(name == key for _, _, name in self._in_options(key))

    @functools.lru_cache(maxsize=64)  # noqa: B019 - one search lives for one message
    def _in_options(self, key: str) -> list[tuple[str, str, str]]:
        """Find a key in options that are not chosen. Return group, option and full key, the most likely first."""
        top, leaf = key.partition(".")[0], key.rpartition(".")[2]
        leaf_too = SYNONYMS.get(leaf, leaf)
        groups = [group for group in self.there.groups if "/" not in group and group not in ("experiment", "debug")]
        first = [group for group in groups if group == top]
        found = []
        for group in first or groups:
            for option in self._that_take(group, []) if first else self.there.options(group):
                if not first and not _may_hold(group, option, (leaf, leaf_too)):
                    continue
                choices = [one for one in self.chosen if one.partition("=")[0] != group]
                config = self.there.compose([*choices, f"{group}={option}"])
                names = [] if config is None else list(dotted(config))
                if key in names:
                    found.append((group, option, key))
                elif not first or leaf_too != leaf:
                    same = [
                        name
                        for name in names
                        if name.rpartition(".")[2] in (leaf, leaf_too) and name.startswith(f"{group}.")
                    ]
                    found += [(group, option, name) for name in sorted(same, key=lambda n: n.count("."))[:1]]
        comments = paths.groups()
        data = self._choice("dataset")
        return sorted(
            found,
            key=lambda it: (
                it[2] != key,
                it[0] != "model",
                not it[1].startswith(data),
                "any input" not in comments.get(it[0], {}).get(it[1], ""),
            ),
        )

    def _there(self, config: DictConfig, key: str) -> str:
        """Return a sentence that lists the keys next to an unknown key."""
        above = key.rpartition(".")[0]
        while above:
            node = OmegaConf.select(config, above, throw_on_missing=False)
            if isinstance(node, DictConfig):
                return f"Keys of {above}: {_listed(str(name) for name in node)}"
            above = above.rpartition(".")[0]
        top = [*(group for group in self.there.groups if "/" not in group), *(str(name) for name in config)]
        return f"Groups and keys at the top: {_listed(name for name in dict.fromkeys(top) if name != 'hydra')}"


def _renamed(word: str, key: str) -> str:
    """Return an override of another key, with the same `+` or `~` and the same value."""
    prefix = word[: len(word) - len(word.lstrip("+~"))]
    _, equals, value = word.partition("=")
    return f"{prefix}{key}{equals}{value}"


def _may_hold(group: str, option: str, leaves: Sequence[str]) -> bool:
    """Whether a config file may have a key, judging by its text, because composing takes longer."""
    for folder in (paths.user_conf_dir(), paths.conf_dir()):
        path = folder / group / f"{option}.yaml" if folder else None
        if path is not None and path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            return any(f"{leaf}:" in text for leaf in leaves)
    return False


def _kind(group: str, key: str) -> str:
    """Return the words for the option to choose: only networks have optimizers, schedulers and learning rates."""
    is_networks = group == "model" and key.replace("/", ".").split(".")[1] in ("lr", "optimizer", "scheduler")
    return "a network" if is_networks else "one"


def _several(word: str, place: int, one: Override) -> Mistake:
    """Return the mistake for a key with several values in a command without `-m`."""
    key, _, value = word.partition("=")
    ways = [f"a run for each of them: labrun -m {word}"]
    if isinstance(one.value(), ChoiceSweep) and one.value().simple_form:  # type: ignore[union-attr]
        ways += [f"one list: {key}=[{value}]", f"one text: {key}='{value}'"]
    return Mistake(f"{word} gives several values to one run. Say what is meant: {'; '.join(ways)}", {FRONT: ["-m"]})


def _values(one: Override) -> list[Any]:
    """Return the values that an override sets or chooses, without quotes around text."""
    value: Any = one.value()
    values: list[Any]
    if isinstance(value, ChoiceSweep):
        values = list(value.list)
    elif one.is_sweep_override():
        return []
    else:
        values = [value]
    return [getattr(item, "text", item) for item in values]


def _nearby(key: str, known: Sequence[str]) -> list[str]:
    """Return keys that a key may have meant, most likely first: the same name in another node, or similar spelling."""
    path = key.replace("/", ".")
    if path in known:
        return [path]
    leaf = path.rpartition(".")[2]
    for last in dict.fromkeys((path, SYNONYMS.get(leaf, leaf), leaf)):
        below = [name for name in known if name.endswith(f".{last}") or name == last]
        below.sort(key=lambda name: (name.partition(".")[0] != path.partition(".")[0], name.count("."), name))
        if below:
            return below
    near = difflib.get_close_matches(path, known, n=1, cutoff=0.75)
    if near and _ratio(leaf, near[0].rpartition(".")[2]) >= ALIKE:
        return near
    leaves: dict[str, list[str]] = {}
    for name in known:
        leaves.setdefault(name.rpartition(".")[2], []).append(name)
    alike = difflib.get_close_matches(leaf, list(leaves), n=1, cutoff=0.7)
    if alike:
        top = path.partition(".")[0]
        return sorted(leaves[alike[0]], key=lambda name: (name.partition(".")[0] != top, name.count(".")))
    return []


ALIKE = 0.65
"""Minimum similarity between the last part of a key and that of its suggestion."""


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def _nearest(word: str, choices: Sequence[str], cutoff: float = 0.62) -> str | None:
    begun = [choice for choice in choices if len(word) > 2 and choice.startswith(word)]
    found = begun or difflib.get_close_matches(word, choices, n=1, cutoff=cutoff)
    return found[0] if found else None


def _listed(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:LISTED]) + (f", ... ({len(names)} in all)" if len(names) > LISTED else "")


def _above(group: str, option: str) -> str:
    """Return a note if a parent folder's `conf/`, which is not searched, has the option; else an empty string."""
    for folder in paths.home().parents[:LEVELS]:
        if (folder / "conf" / group / f"{option}.yaml").is_file():
            return f". There is one in {folder / 'conf'}, but that applies only to commands run in {folder}"
    return ""
