"""Decides which folders of images are the splits of a data set, and which are its classes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from labrun.errors import ConfigError, DataError, MissingDataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
PARTS = ("train", "validation", "test")
ENDING = "(s|set|data|dataset|img|imgs|images?|part|split)?"
NAMES = {
    "train": re.compile(rf"(seg)?train(ing)?{ENDING}"),
    "validation": re.compile(rf"(seg)?(cross)?(val|valid|validate|validation|dev){ENDING}"),
    "test": re.compile(rf"(seg)?(test(ing)?|eval|evaluation){ENDING}"),
}
"""Accepted folder names of each split, in lower case and without blanks, `_`, `.` and `-`."""
DEEPEST = 4


@dataclass
class Layout:
    """The folder of each split of a data set, with one folder per class in it."""

    parts: dict[str, Path]
    notes: list[str] = field(default_factory=list)


def layout(folder: Path, given: Mapping[str, str] | bool | None) -> Layout:
    """Determine which folder holds which split.

    Args:
        folder: the data set's folder.
        given: the user's folder for each split; False: there are no splits; None: detect them by name.

    Raises:
        ConfigError: `given` is invalid.
        MissingDataError: a folder in `given` does not exist.
        DataError: splits and classes cannot be told apart.
    """
    if isinstance(given, Mapping):
        return Layout(_folders(folder, given))
    if given is False:
        return Layout({"train": folder})
    top, notes = _below(folder)
    children = subfolders(top)
    found = _by_part(children)
    named = [child for part in found.values() for child in part]
    rest = [child for child in children if child not in named and _first_image(child) is not None]
    unlabelled = [child for child in rest if part_of(child.name) is not None]
    twice = [paths for paths in found.values() if len(paths) > 1]
    if twice:
        raise DataError(_question(top, f"{_names(twice[0])} may each be the same split", twice[0]))
    if not found["train"]:
        _check_classes(top, children, named, rest)
        return Layout({"train": top}, [*notes, *_loose(top)])
    if rest != unlabelled and len(named) == 1:
        raise DataError(
            _question(
                top,
                f"{_names(named)} holds folders of images, and {_names(rest)} images, too: a split, or a "
                "class among others",
                [*named, *rest],
            )
        )
    parts = {}
    for part, paths in found.items():
        for path in paths:
            parts[part], _ = _below(path)
            notes += _loose(parts[part])
    if any(path != top / part for part, path in parts.items() if path != top / "val"):
        listed = ", ".join(f"{path.relative_to(folder)} ({part})" for part, path in parts.items())
        notes.insert(0, f"splits: {listed}")
    if rest:
        notes.append(f"left out: {_names(rest)}, which do not have one folder per class")
    return Layout(parts, [*notes, *_loose(top)])


def _by_part(children: list[Path]) -> dict[str, list[Path]]:
    """Return the folders that are named after each split and hold one folder per class."""
    found: dict[str, list[Path]] = {part: [] for part in PARTS}
    for child in children:
        part = part_of(child.name)
        if part is not None and _has_classes(_below(child)[0]):
            found[part].append(child)
    return found


def _check_classes(top: Path, children: list[Path], named: list[Path], rest: list[Path]) -> None:
    """Check that the subfolders can only be classes, where none is recognised as the training split.

    Args:
        top: the folder that holds them.
        children: all subfolders.
        named: those that look like another split.
        rest: the others with images.

    Raises:
        DataError: some may be splits.
    """
    alike = _the_same_classes(children)
    if alike:
        raise DataError(
            _question(
                top,
                f"{_names(alike)} hold no images themselves, but folders of images, the same ones in "
                f"each ({', '.join(sorted(names_in(_below(alike[0])[0]))[:5])})",
                alike,
            )
        )
    if named:
        raise DataError(
            _question(top, f"{_names(named)} may be a split or a class, and there is no train/ next to it", named)
        )
    kinds = {part_of(child.name) for child in rest}
    if len(kinds) > 1 and None not in kinds and "train" in kinds:
        raise DataError(
            f"{top}: {_names(rest)} hold images, but no folder per class, so the class of an image is unknown. Put "
            "the images of each class into a separate folder below them; if they are the classes, set "
            "dataset.parts=false; or set another folder with dataset.path"
        )


def _folders(folder: Path, given: Mapping[str, str]) -> dict[str, Path]:
    if "train" not in given or set(given) - set(PARTS):
        raise ConfigError(
            f"dataset.parts={dict(given)}: it must give the folder of train, and may give those of validation and test"
        )
    parts = {part: folder / given[part] for part in PARTS if part in given}
    for part, path in parts.items():
        if not path.is_dir():
            raise MissingDataError(
                f"dataset.parts.{part}={given[part]}: {path} is not a folder; there are "
                f"{_names(subfolders(folder)) or 'none'}"
            )
    return {part: _below(path)[0] for part, path in parts.items()}


def _question(folder: Path, what: str, folders: list[Path]) -> str:
    named = {part_of(path.name) or _resembles(path.name): path.name for path in reversed(folders)}
    parts = {part: named[part] for part in PARTS if part in named}
    if "train" not in parts:
        others = [path.name for path in folders if path.name not in parts.values()] or ["..."]
        parts = {"train": others[0], **(parts or {"test": others[1] if len(others) > 1 else "..."})}
    pairs = ", ".join(f"{part}: {name}" for part, name in parts.items())
    return (
        f"{folder}: {what}. If these are splits, set 'dataset.parts={{{pairs}}}' (train, validation, test); "
        "if they are classes, dataset.parts=false; or set another folder with dataset.path"
    )


def part_of(name: str) -> str | None:
    """Return the split that a folder name stands for, or None."""
    plain = re.sub(r"[\s_.-]", "", name.lower())
    return next((part for part, form in NAMES.items() if form.fullmatch(plain)), None)


def _resembles(name: str) -> str | None:
    """Return the split that a folder name vaguely resembles, for a suggestion in a message."""
    return next((part for part in PARTS if part[:5] in name.lower()), None)


def _below(folder: Path) -> tuple[Path, list[str]]:
    """Return the folder, or the only folder nested in it, as archives often have; with notes for the user."""
    place = folder
    for _ in range(DEEPEST):
        inner = subfolders(place)
        if len(inner) != 1 or _images_directly(place) or _images_directly(inner[0]):
            break
        place = inner[0]
    if place == folder or len(subfolders(place)) < 2:
        return folder, []
    return place, [f"read below {place.relative_to(folder)}"]


def _has_classes(folder: Path) -> bool:
    return any(_first_image(child) is not None for child in subfolders(folder))


def _the_same_classes(children: list[Path]) -> list[Path]:
    """Return folders that hold no images directly, but contain image folders of the same names."""
    inner = {child: names_in(_below(child)[0]) for child in children if not _images_directly(child)}
    inner = {child: names for child, names in inner.items() if len(names) > 1 and _has_classes(_below(child)[0])}
    for child, names in inner.items():
        same = [other for other, others in inner.items() if 2 * len(names & others) > max(len(names), len(others))]
        if len(same) > 1 and child in same:
            return same
    return []


def _loose(folder: Path) -> list[str]:
    count = len(_images_directly(folder))
    files = f"{count} image{'' if count == 1 else 's'}"
    return [f"left out: {files} directly in {folder.name}, outside the folder of any class"] if count else []


def _images_directly(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if not p.name.startswith(".") and p.suffix.lower() in SUFFIXES and p.is_file()]


def _first_image(folder: Path) -> Path | None:
    return next(images(folder), None)


def images(folder: Path) -> Iterator[Path]:
    """Yield the images in a folder and below it, except hidden ones."""
    for path in folder.rglob("*"):
        hidden = any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)
        if not hidden and path.suffix.lower() in SUFFIXES and path.is_file():
            yield path


def subfolders(folder: Path) -> list[Path]:
    """Return the subfolders of a folder, sorted by name, except hidden ones."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))


def names_in(folder: Path) -> set[str]:
    """Return the names of the subfolders."""
    return {path.name for path in subfolders(folder)}


def _names(folders: list[Path]) -> str:
    listed = [path.name for path in folders]
    return ", ".join(listed[:5]) + (f", ... ({len(listed)} in all)" if len(listed) > 5 else "")
