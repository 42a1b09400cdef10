"""Overrides that can be read and fit nothing: options and keys that are not there, held against those that are.

What is there is found out by composing: first the choices of groups that can be made, then each key on top of them, as
Hydra would set it. Where a key is not there, it is looked for elsewhere: below another node, in the options of a group
that are not chosen, among the groups themselves.
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

from labrun import schema, targets
from labrun.checking import pairs
from labrun.config import composed, paths
from labrun.errors import ConfigError
from labrun.mistakes.composed import Composable, can_be_set, composable, dotted, is_a_value, is_node, misfit
from labrun.mistakes.flags import Split
from labrun.mistakes.flags import split as split_words
from labrun.mistakes.mistake import FRONT, Mistake

SYNONYMS = pairs(
    "learning_rate:lr eta:lr epochs:max_epochs num_epochs:max_epochs n_epochs:max_epochs "
    "nb_epochs:max_epochs num_train_epochs:max_epochs bs:batch_size batch:batch_size random_seed:seed "
    "random_state:seed gpus:gpus_per_run n_jobs:cpus_per_run num_workers:cpus_per_run n_trials:max_trials "
    "iterations:max_iter time_limit:timeout_min"
)
"""What a key is called elsewhere."""
OPTIONS = {
    ("sweep", "bayes"): "tpe",
    ("sweep", "bayesian"): "tpe",
    ("sweep", "optuna"): "tpe",
    ("compute", "cuda"): "gpu",
    ("compute", "cpu"): "local",
    ("compute", "cluster"): "slurm",
}
"""And an option."""
NODES = "compute.max_parallel: runs at once; compute.nodes: machines for one run (compute=slurm)"
NOTES = {"compute.min_nodes": NODES, "compute.max_nodes": NODES}
"""Of keys that nothing here is alike to."""
LEVELS = 6
"""So many folders above the working one are looked through."""
LISTED = 24
"""Keys or options that a message names."""
TRIED = 16
"""Compositions that the search for one key may cost."""


def check(words: Sequence[str], split: Split) -> list[Mistake]:
    """Every override of a command line that chooses or sets what is not there.

    Args:
        words: the command line; each of its overrides can be read.
        split: it, taken apart.
    """
    parser = OverridesParser.create()
    parsed = [(place, parser.parse_override(words[place])) for place in split.overrides]
    own = [(place, one) for place, one in parsed if not one.is_hydra_override()]
    there = composable(split)
    is_sweep = "--multirun" in split.values or _is_told_to_sweep(there, [one for _, one in parsed])
    return list(_Search(there, words, own, is_sweep).mistakes())


def _is_told_to_sweep(there: Composable, parsed: Sequence[Override]) -> bool:
    """Whether a config that is chosen says by itself that the command is a sweep (`hydra.mode`)."""
    if not any(one.is_sweep_override() for one in parsed):
        return False
    plain = [str(one.input_line) for one in parsed if not one.is_sweep_override()]
    choices = [text for text in plain if text.partition("=")[0] in ("experiment", "debug", "sweep", "hydra.mode")]
    config = there.compose(choices)
    return config is not None and bool(config.hydra.mode == RunMode.MULTIRUN)


def groups_as_keys(words: Sequence[str]) -> list[Mistake]:
    """Overrides that set a key to text where a group of options is: Hydra puts it in the place of all its keys."""
    split = split_words(words)
    parser = OverridesParser.create()
    parsed = [(place, parser.parse_override(words[place])) for place in split.overrides]
    own = [(place, one) for place, one in parsed if "." in one.key_or_group and not one.is_hydra_override()]
    search = _Search(composable(split), words, own, is_sweep=True)
    return [found for place, one in own if (found := search.group_as_key(place, one)) is not None]


def unfit(words: Sequence[str], split: Split) -> list[str]:
    """What the schema says of a command line that composes: such a one is not to be offered.

    Args:
        words: the command line.
        split: it, taken apart.
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
    """Holds the overrides of one command line against what is there."""

    def __init__(
        self, there: Composable, words: Sequence[str], parsed: Sequence[tuple[int, Override]], is_sweep: bool
    ) -> None:
        self.there, self.words, self.parsed, self.is_sweep = there, words, parsed, is_sweep
        # A run that scores another's model is composed with that run's data.
        scoring = [one for _, one in parsed if one.key_or_group in ("task", "from") and not one.is_sweep_override()]
        self.chosen: list[str] = [str(one.input_line) for one in scoring] if len(scoring) == 2 else []
        """The choices of groups that can be made together."""
        self.tried = 0

    def mistakes(self) -> Iterator[Mistake]:
        """All of them: first those of the groups, which decide what keys there are."""
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
                mended = list(found.fix.get(place, ()))  # the keys are looked for where it is meant to lead
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
        """Keys that the options of a group have which is swept: the sweep's own config, without them, has none."""
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
                        f"Sweep those alone that have it ({group}={','.join(o for o in options if o not in lacking)}), "
                        "or leave the key out"
                    )

    def _option(self, place: int, one: Override) -> Mistake | None:
        """A group's option that is not there."""
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
                f"{word!r} names no {group}: nothing stands after the '=' (is a variable of the shell empty?). "
                f"There are: {_listed(options)}"
            )
        said = f"{word}: there is no {group} {text!r}"
        stem = text.removesuffix(".yaml").removesuffix(".yml").rpartition("/")[2]
        stem = stem if stem in options else OPTIONS.get((group, stem), stem)
        near = stem if stem in options else next((o for o in options if o.lower() == stem.lower()), None)
        elsewhere = [other for other, names in self.there.groups.items() if stem in names and other != group]
        near = near or _nearest(stem, options)
        if elsewhere and (near is None or stem not in options):
            listed = " or ".join([*(f"{other}={stem}" for other in elsewhere), *([f"{group}={near}"] if near else [])])
            fix = {place: [f"{elsewhere[0]}={stem}"]} if len(elsewhere) == 1 and near is None else {}
            return Mistake(f"{said}. Did you mean {listed}? Of {group} there are: {_listed(options)}", fix)
        if near is None or one.is_sweep_override():
            hint = "" if near is None else f" Did you mean {near!r}?"
            return Mistake(f"{said}.{hint} There are: {_listed(options)}{_above(group, text)}")
        new = f"{word.partition('=')[0]}={word.partition('=')[2].replace(text, near, 1)}"
        return Mistake(f"{said}. Did you mean {near!r}? There are: {_listed(options)}", {place: [new]})

    def _slot(self, place: int, one: Override) -> Mistake | None:
        """An option that is there, of a group that has no place in what else is chosen."""
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
                f"{word}: {group} is chosen already, so no '+' stands before it. Did you mean {new!r}?", {place: [new]}
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
        """The options of a group with which overrides can be composed; those that fit any data first."""
        found = []
        for option in self.there.options(group):
            if option == self._choice(group) or self.tried >= TRIED:
                continue
            self.tried += 1
            choices = [one for one in self.chosen if one.partition("=")[0] != group]
            if self.there.compose([*choices, f"{group}={option}", *overrides]) is not None:
                found.append(option)
        comments = paths.groups().get(group, {})
        data = str(self._choice("dataset"))
        return sorted(found, key=lambda o: (not o.startswith(data), "any input" not in comments.get(o, ""), o))

    def _choice(self, group: str) -> str:
        """What is chosen of a group."""
        config = self.there.compose(self.chosen)
        choices: Mapping[str, Any] = {} if config is None else config.hydra.runtime.choices
        return str(choices.get(group))

    def _with_choice(self, place: int, group: str, option: str, words: Sequence[str]) -> dict[int, list[str]]:
        """The words to type for a key that another choice of a group has; its own choice is replaced."""
        old = next((at for at, one in self.parsed if one.key_or_group == group), None)
        new = f"{group}={option}"
        return {place: [new, *words]} if old is None else {old: [new], place: list(words)}

    def _key(self, place: int, one: Override, config: DictConfig) -> Mistake | None:
        """A key that is not there, or one that `+` and `~` do not fit."""
        word = self.words[place]
        if can_be_set(config, one):
            return self.group_as_key(place, one)
        key = one.key_or_group
        if one.package is not None and not self.there.options(key):
            return Mistake(f"{word}: there is no group {key!r}. Groups: {_listed(self.there.groups)}")
        if one.type == OverrideType.ADD:
            new = word.lstrip("+")
            return Mistake(
                f"{word}: {key} is there already, so no '+' stands before it. Did you mean {new!r}?", {place: [new]}
            )
        if (added := self._added(place, one, config)) is not None:
            return added
        if (why := misfit(config, one)) is not None:
            return Mistake(f"{word}: {why}")
        if is_a_value(config, key):
            above = key.rpartition(".")[0]
            return Mistake(f"{word}: {above} is a value and holds no keys")
        return self._elsewhere(place, one, config)

    def _added(self, place: int, one: Override, config: DictConfig) -> Mistake | None:
        """A new key below one that is there for keys of any name, and is empty so far."""
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
        """An option of a group, written as a key's value."""
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

    def _elsewhere(self, place: int, one: Override, config: DictConfig) -> Mistake:
        """What a key was probably meant to be."""
        word, key = self.words[place], one.key_or_group
        prefix = word[: len(word) - len(word.lstrip("+~"))]
        tail = word.partition("=")[2]
        equals = "=" if "=" in word else ""
        known = [name for name in dotted(config) if one.type == OverrideType.DEL or not is_node(config, name)]
        said = f"{word}: no such key" if one.type == OverrideType.DEL else f"{key}: no such key"

        def fixed(name: str) -> str:
            return f"{prefix}{name}{equals}{tail}"

        choices = self._as_choice(one)
        for group, value in choices:
            new = f"{group}={value}" if not one.is_sweep_override() else f"{group}={tail}"
            if self.there.compose([*self.chosen, f"{group}={value}"]) is not None:
                return Mistake(f"{said}. Did you mean {new!r}? {self._there(config, key)}", {place: [new]})
            above = group.rpartition("/")[0]
            options = self._that_take(above, [f"{group}={value}"]) if above else []
            if options:
                own = self._choice(above)
                return Mistake(
                    f"{said}. {above}={own} has no {group.rpartition('/')[2]} to choose. Choose {_kind(above, group)} "
                    f"that has one: {above}={options[0]} {new}",
                    self._with_choice(place, above, options[0], [new]),
                )
        above, _, name = key.rpartition(".")
        target = OmegaConf.select(config, f"{above}._target_") if above and one.type != OverrideType.DEL else None
        if isinstance(target, str) and targets.takes(target, name):
            new = f"+{fixed(key).lstrip('+')}"
            return Mistake(
                f"{said}, and {above}={self._choice(above)} takes it: a key that its file does not list begins with "
                f"'+'. Type {new!r}, or add {name} to the file",
                {place: [new]},
            )
        if key.split(".")[:1] == ["model"] and one.type == OverrideType.CHANGE and key.split(".")[1] in schema.LEARNING:
            new = f"+{fixed(key)}"
            return Mistake(
                f"{said} in the file of model={self._choice('model')}, and networks have it: a key that the file does "
                f"not list begins with '+'. Did you mean {new!r}?",
                {place: [new]},
            )
        found = _nearby(key, known)
        tops = [group for group in self.there.groups if "/" not in group]
        meant = None if "." in key or one.type == OverrideType.DEL else _nearest(key, tops, cutoff=0.75)
        if meant is not None and (not found or "." in found[0]):
            there = _listed(self.there.options(meant))
            return Mistake(f"{said}. Did you mean {meant!r}? There is no {meant} {tail!r}; there are: {there}")
        if found and not self._is_closer_elsewhere(key, found[0]):
            near = found[0]
            also = f" (or {', '.join(found[1:4])})" if found[1:] else ""
            return Mistake(f"{said}. Did you mean {near!r}?{also} {self._there(config, key)}", {place: [fixed(near)]})
        for group, option, name in self._in_options(key):
            own = self._choice(group)
            new = fixed(name)
            others = [o for g, o, n in self._in_options(key) if (g, n) == (group, name) and o != option]
            also = f" (or {', '.join(f'{group}={o}' for o in others[:3])})" if others else ""
            what = f"{group}={own} has no such key" if key == name else f"no such key, and {group}={own} has no {name}"
            return Mistake(
                f"{key}: {what}. Choose {_kind(group, name)} that has it: {group}={option} {new}{also}. "
                f"{self._there(config, name)}",
                self._with_choice(place, group, option, [new]),
            )
        note = f" {NOTES[key]}." if key in NOTES else ""
        return Mistake(f"{said}.{note} {self._there(config, key)}")

    def _as_choice(self, one: Override) -> list[tuple[str, str]]:
        """Groups that a key may have meant, with the option that its value is: by the key, and by the value."""
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

    def _is_closer_elsewhere(self, key: str, near: str) -> bool:
        """Whether an option that is not chosen has the key, and what is near is only like it, or has no effect here."""
        if near.startswith("sweep.") and not self.is_sweep:  # a single run reads nothing of it
            return bool(self._in_options(key))
        if near.rpartition(".")[2] == key.rpartition(".")[2]:
            return False
        return any(name == key for _, _, name in self._in_options(key))

    @functools.lru_cache(maxsize=64)  # noqa: B019 - one search lives for one message
    def _in_options(self, key: str) -> list[tuple[str, str, str]]:
        """Group, option and full name of a key in the options that are not chosen; the likeliest first."""
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
        """The keys that stand where one was looked for."""
        above = key.rpartition(".")[0]
        while above:
            node = OmegaConf.select(config, above, throw_on_missing=False)
            if isinstance(node, DictConfig):
                return f"Keys of {above}: {_listed(str(name) for name in node)}"
            above = above.rpartition(".")[0]
        top = [*(group for group in self.there.groups if "/" not in group), *(str(name) for name in config)]
        return f"Groups and keys at the top: {_listed(name for name in dict.fromkeys(top) if name != 'hydra')}"


def _may_hold(group: str, option: str, leaves: Sequence[str]) -> bool:
    """Whether a config file may have a key, by its text or that of the files beside it: composing takes longer."""
    for folder in (paths.user_conf_dir(), paths.conf_dir()):
        path = folder / group / f"{option}.yaml" if folder else None
        if path is not None and path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            return any(f"{leaf}:" in text for leaf in leaves)
    return False


def _kind(group: str, key: str) -> str:
    """What is to be chosen: optimizers, schedulers and learning rates are those of networks."""
    is_networks = group == "model" and key.replace("/", ".").split(".")[1] in ("lr", "optimizer", "scheduler")
    return "a network" if is_networks else "one"


def _several(word: str, place: int, one: Override) -> Mistake:
    """Several values, and no `-m`."""
    key, _, value = word.partition("=")
    ways = [f"a run for each of them: labrun -m {word}"]
    if isinstance(one.value(), ChoiceSweep) and one.value().simple_form:  # type: ignore[union-attr]
        ways += [f"one list: {key}=[{value}]", f"one text: {key}='{value}'"]
    return Mistake(f"{word} gives several values to one run. Say what is meant: {'; '.join(ways)}", {FRONT: ["-m"]})


def _values(one: Override) -> list[Any]:
    """The values that an override sets or chooses, text without its quotes."""
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
    """Keys that one may have meant, the likeliest first: the same further down, else one that is written alike."""
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
"""How much the last part of a key must be like what is offered in its place."""


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
    """Where an option lies in a folder above the working one, whose `conf/` is not looked at."""
    for folder in paths.home().parents[:LEVELS]:
        if (folder / "conf" / group / f"{option}.yaml").is_file():
            return f". There is one in {folder / 'conf'}, but that applies only to commands run in {folder}"
    return ""
