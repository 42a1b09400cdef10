"""Search spaces, in Hydra's own override grammar: from the command line, from YAML, and from chosen components."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, Quote, QuotedString, RangeSweep
from hydra.errors import HydraException

from labrun.config.instantiate import Node
from labrun.config.schema import Sweep
from labrun.errors import ConfigError
from labrun.messages import without_details

SPACE_KEY = "search_space"
"""Key of a component's file that defines how its keys may vary."""
TAGS = ("log", "int", "float")
LARGEST_RANGE = 100_000


@dataclass(frozen=True)
class Choice:
    """A choice between several values of a key, or of several keys that advance together."""

    name: str
    keys: tuple[str, ...]
    """Keys as in an override: possibly with `+`, a group or a package."""
    values: tuple[tuple[str, ...], ...]
    """For each choice, the text after the `=` of each key."""

    @property
    def labels(self) -> tuple[str, ...]:
        """A unique label for each choice."""
        return tuple(", ".join(texts) for texts in self.values)

    def overrides(self, label: str) -> list[str]:
        """Return the command-line overrides for a choice."""
        texts = self.values[self.labels.index(label)]
        return [f"{key}={text}" for key, text in zip(self.keys, texts, strict=True)]

    def __str__(self) -> str:
        return f"{self.name}: {' | '.join(self.labels)}"


@dataclass(frozen=True)
class Numbers:
    """A number between two bounds, both inclusive."""

    name: str
    key: str
    low: float
    high: float
    step: float | None = None
    log: bool = False
    whole: bool = False

    def overrides(self, value: float) -> list[str]:
        """Return the command-line override for a value."""
        return [f"{self.key}={int(value) if self.whole else repr(float(value))}"]

    def __str__(self) -> str:
        ways = (("whole", self.whole), ("log", self.log), (f"step {self.step}", self.step is not None))
        return ", ".join([f"{self.name}: {self.low:g} to {self.high:g}", *(name for name, has in ways if has)])


Dimension = Choice | Numbers
Combination = Mapping[str, str | int | float]
"""One value for each dimension, by its name, as the study has it: the label of a choice, or a number."""


@dataclass(frozen=True)
class Space:
    """The search space of a sweep: fixed overrides, and dimensions that vary."""

    fixed: tuple[str, ...]
    dimensions: tuple[Dimension, ...]

    def keys(self) -> set[str]:
        """Return the keys that the user has set or varied."""
        keys = {plain_key(text.partition("=")[0]) for text in self.fixed}
        for one in self.dimensions:
            keys |= {plain_key(key) for key in (one.keys if isinstance(one, Choice) else (one.key,))}
        return keys


def plain_key(key: str) -> str:
    """Return a key without prefix and package, with its group as a dotted path."""
    return key.lstrip("+~").partition("@")[0].replace("/", ".")


def parse_space(
    texts: Sequence[str],
    loader: ConfigLoader,
    zipped: Sequence[Sequence[str]] = (),
    finite: bool = False,
    settings: type[Sweep] = Sweep,
) -> Space:
    """Parse overrides; those with several values become dimensions, in order.

    Args:
        texts: `key=value`, as typed.
        loader: knows the groups' options, for `glob()`.
        zipped: groups of keys that advance together.
        finite: reject intervals, because every combination is tried.
        settings: names the keys of the search in messages.

    Raises:
        ConfigError: an override cannot be parsed, or zipped lists do not match.
    """
    parser = OverridesParser.create(config_loader=loader)
    fixed: dict[str, str] = {}
    varied: dict[str, Override] = {}
    for text in texts:
        override = _parsed(parser, text)
        key = override.get_key_element()
        # Later overrides win, as in Hydra's own sweeper.
        fixed.pop(key, None)
        varied.pop(key, None)
        if override.is_sweep_override():
            varied[key] = override
        else:
            fixed[key] = text
    dimensions: list[Dimension] = []
    pairs = _pairs(zipped, varied, fixed, settings)
    for key, override in varied.items():
        partners = next((keys for keys in pairs if key in keys), None)
        if partners is None:
            every_one = finite and isinstance(override.value(), RangeSweep)
            dimensions.append(_choice(override) if every_one else dimension(override))
        elif key == partners[0]:
            dimensions.append(_together([varied[name] for name in partners], settings))
    for one in dimensions:
        if finite and isinstance(one, Numbers):
            raise ConfigError(
                f"{one.key}: an interval has infinitely many values, and {settings.choice('grid')} tries every one. "
                f"Give a list or a range(), or choose {settings.choice('random')}, tpe, gp, cmaes or qmc"
            )
    return Space(tuple(fixed.values()), tuple(dimensions))


def component_dimensions(node: Any, path: str, parser: OverridesParser, loader: ConfigLoader) -> Iterator[Dimension]:
    """Yield the dimensions of a component's own `search_space`.

    Args:
        node: maps keys of the component (`lr`, or a group of options below it) to their values.
        path: path of the component in the config.
        parser: Hydra's override parser.
        loader: knows which keys are groups.

    Raises:
        ConfigError: it is not a mapping, or a value cannot be parsed.
    """
    if not isinstance(node, Mapping):
        raise ConfigError(
            f"{path}.{SPACE_KEY}: expected keys and their values, such as lr: tag(log, interval(1e-4, 1))"
        )
    for key, value in node.items():
        group = f"{path}.{key}".replace(".", "/")
        target = group if loader.get_group_options(group) else f"{path}.{key}"
        yield dimension(_parsed(parser, f"{target}={as_text(value)}"))


def component_nodes(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield path and search space of every component of a config (plain dicts) that has one, outermost first."""
    if not isinstance(config, Mapping):
        return
    if config.get(SPACE_KEY) and path:
        yield path, config[SPACE_KEY]
    for key, value in config.items():
        if key != SPACE_KEY and not (not path and key in ("sweep", "hydra")):
            yield from component_nodes(value, f"{path}.{key}" if path else str(key))


def flattened(node: Node, path: str = "") -> Iterator[tuple[str, Any]]:
    """Flatten the keys of a space from YAML: `{model: {lr: ...}}` becomes `model.lr`."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def as_text(value: Any) -> str:
    """Convert a YAML value to the override grammar: a list is a list of choices, text is already in the grammar.

    Raises:
        ConfigError: the list is empty.
    """
    if isinstance(value, list | tuple):
        if not value:
            raise ConfigError("a search space has an empty list: give at least one value")
        # Comma-separated, because choice() does not accept null.
        return ",".join(as_element(item) for item in value)
    return value if isinstance(value, str) else as_element(value)


PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
WORDS = ("null", "true", "false", "nan", "inf")
"""Text that the grammar would not parse as a string."""


def as_element(value: Any) -> str:
    """Convert one value to the override grammar, quoting text that would otherwise not parse as a string."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{as_element(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(as_element(item) for item in value) + "]"
    if isinstance(value, str) and not (PLAIN.fullmatch(value) and value.lower() not in WORDS):
        return QuotedString(value, Quote.single).with_quotes()
    return repr(value) if isinstance(value, float) else str(value)


def _parsed(parser: OverridesParser, text: str) -> Override:
    try:
        (override,) = parser.parse_overrides([text])
        return override
    except (HydraException, ValueError) as error:
        from labrun import mistakes

        raise ConfigError(f"{text!r} cannot be read: {mistakes.unreadable([text], error)}") from error


def dimension(override: Override) -> Dimension:
    """Convert a swept override to a dimension.

    Raises:
        ConfigError: its choices are empty, or its bounds or tags are invalid.
    """
    key = override.get_key_element()
    name = plain_key(key)
    if not override.is_sweep_override():
        # A single value is a list of one, so that a component's search space can be narrowed to it.
        return Choice(name, (key,), ((override.get_value_element_as_str(),),))
    value = override.value()
    tags = set(getattr(value, "tags", ()))
    strange = sorted(tags - set(TAGS))
    if strange:
        raise ConfigError(f"{key}: unknown tag {strange[0]!r}; expected one of {', '.join(TAGS)}")
    if isinstance(value, IntervalSweep):
        return _interval(key, value, tags)
    if isinstance(value, RangeSweep) and not value.shuffle:
        return _range(key, value, tags, override)
    return _choice(override)


def _choice(override: Override) -> Choice:
    key = override.get_key_element()
    try:
        texts = list(dict.fromkeys(override.sweep_string_iterator()))
    except HydraException as error:
        raise ConfigError(f"{key}: {without_details(error)}") from error
    if not texts:
        raise ConfigError(f"{key}: nothing to choose from: no option matches")
    return Choice(plain_key(key), (key,), tuple((text,) for text in texts))


def _interval(key: str, value: IntervalSweep, tags: set[str]) -> Numbers:
    assert value.start is not None and value.end is not None
    whole = "int" in tags or (isinstance(value.start, int) and isinstance(value.end, int))
    low, high = float(value.start), float(value.end)
    if whole and (low != round(low) or high != round(high)):
        raise ConfigError(f"{key}: an interval of integers needs integer bounds, not {low:g} and {high:g}")
    return _checked(Numbers(plain_key(key), key, low, high, log="log" in tags, whole=whole))


def _range(key: str, value: RangeSweep, tags: set[str], override: Override) -> Dimension:
    assert value.start is not None and value.stop is not None
    start, stop, step = float(value.start), float(value.stop), float(value.step or 1)
    if step <= 0 or start >= stop:
        return _choice(override)
    count = round((stop - start) / step + 0.499999999)
    if count > LARGEST_RANGE:
        raise ConfigError(f"{key}: a range of {count:,} values is too large: use interval({start:g},{stop:g})")
    last = start + (count - 1) * step
    whole = all(float(number).is_integer() for number in (start, step)) and not isinstance(value.start, float)
    if "log" in tags:
        return _checked(Numbers(plain_key(key), key, start, last, log=True, whole=whole))
    return _checked(Numbers(plain_key(key), key, start, last, step=step, whole=whole))


def _checked(one: Numbers) -> Numbers:
    if not one.low <= one.high:
        raise ConfigError(f"{one.key}: the lower bound {one.low:g} is above the upper bound {one.high:g}")
    if one.log and one.low <= 0:
        raise ConfigError(f"{one.key}: tag(log, ...) needs bounds above 0, but the lower one is {one.low:g}")
    return one


def _pairs(
    zipped: Sequence[Sequence[str]],
    varied: Mapping[str, Override],
    fixed: Mapping[str, str],
    settings: type[Sweep],
) -> list[list[str]]:
    """Return the groups of zipped keys, as typed and in the order typed."""
    found: list[list[str]] = []
    by_name = {plain_key(key): key for key in varied}
    taken: set[str] = set()
    for names in zipped:
        listed = f"{settings.key('zip')}=[[{','.join(names)}]]"
        if len(names) < 2:
            raise ConfigError(f"{listed}: give at least two keys to pair")
        for name in names:
            if plain_key(name) not in by_name:
                why = "has one value" if any(plain_key(k) == plain_key(name) for k in fixed) else "is not swept"
                raise ConfigError(f"{listed}: {name} {why}; give every one of these keys a list: {name}=a,b,c")
            if plain_key(name) in taken:
                raise ConfigError(f"{listed}: {name} is listed twice")
            taken.add(plain_key(name))
        keys = {by_name[plain_key(name)] for name in names}
        found.append([key for key in varied if key in keys])
    return found


def _together(overrides: Sequence[Override], settings: type[Sweep]) -> Choice:
    lists = []
    for override in overrides:
        one = dimension(override)
        if isinstance(one, Numbers):
            if isinstance(override.value(), IntervalSweep):
                raise ConfigError(f"{settings.key('zip')}: {one.key} is an interval; paired keys need lists")
            one = _choice(override)
        # Keep duplicates: zipped values are matched by position.
        lists.append([str(text) for text in override.sweep_string_iterator()])
    if len({len(values) for values in lists}) > 1:
        counts = ", ".join(
            f"{plain_key(override.get_key_element())} has {len(values)}"
            for override, values in zip(overrides, lists, strict=True)
        )
        raise ConfigError(f"{settings.key('zip')}: paired lists must be equally long, but {counts}")
    keys = tuple(override.get_key_element() for override in overrides)
    values = tuple(dict.fromkeys(zip(*lists, strict=True)))
    return Choice(" + ".join(plain_key(key) for key in keys), keys, values)


def grid_overrides(space: Space) -> list[list[str]]:
    """Return the overrides of every combination, in Hydra's order: the last key varies fastest.

    Raises:
        ConfigError: a dimension is an interval.
    """
    lists: list[list[list[str]]] = []
    for one in space.dimensions:
        if isinstance(one, Choice):
            lists.append([one.overrides(label) for label in one.labels])
        else:
            lists.append([one.overrides(value) for value in values_of(one)])
    return [[*space.fixed, *itertools.chain(*combination)] for combination in itertools.product(*lists)]


def combination_count(dimensions: Sequence[Dimension]) -> int | None:
    """Return the number of combinations; None if an interval is continuous."""
    total = 1
    for one in dimensions:
        if isinstance(one, Numbers) and one.step is None and not one.whole:
            return None
        total *= len(one.values) if isinstance(one, Choice) else round((one.high - one.low) / (one.step or 1.0)) + 1
    return total


def combinations(dimensions: Sequence[Dimension]) -> Iterator[Combination]:
    """Yield every combination; the last dimension varies fastest."""
    lists: list[Sequence[str | int | float]] = [
        one.labels if isinstance(one, Choice) else _counted(one) for one in dimensions
    ]
    for values in itertools.product(*lists):
        yield dict(zip((one.name for one in dimensions), values, strict=True))


def _counted(one: Numbers) -> list[float]:
    return [int(value) if one.whole else value for value in values_of(one)]


def values_of(one: Numbers) -> list[float]:
    """Return every value of a range.

    Raises:
        ConfigError: it is continuous, since it has no step.
    """
    if one.step is None and not one.whole:
        raise ConfigError(f"{one.key}: an interval has infinitely many values, and a grid tries every one")
    step = one.step or 1.0
    return [round(one.low + place * step, 12) for place in range(round((one.high - one.low) / step) + 1)]
