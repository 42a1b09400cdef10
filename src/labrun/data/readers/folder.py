"""Images in one folder per class."""

from __future__ import annotations

import functools
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from labrun import messages
from labrun.data.arrays import AnyArray, Part, RawData
from labrun.data.reader import Reader
from labrun.data.readers.checks import is_absolute
from labrun.data.readers.parts import SUFFIXES, images, layout, subfolders
from labrun.data.streamed import Files, Rows
from labrun.errors import CorruptDataError, DataError, MissingDataError
from labrun.runs.recording import storable

log = logging.getLogger(__name__)

GREY_MODES = frozenset({"1", "L", "LA"})
DEEP_MODES = ("RGB;16", "RGBA;16", "RGBX;16", "LA;16")  # Pillow would silently drop the lower bytes
COLOUR_MODES = frozenset({"RGB", "RGBA", "P", "CMYK", "YCbCr"})
MEMORY_SHARE = 0.6
FolderListing = tuple[tuple[str, ...], dict[str, list[tuple[Path, int]]], list[str]]


class ImageFolder(Reader):
    """`train/<class>/*.png` and `test/<class>/*.png`, or just `<class>/*.png`, which is then split with a seed.

    The folders of the splits may have other names (`Training`, `seg_train`, `valid`, ...) and be nested a level deeper;
    see `labrun.data.readers.parts`. If splits and classes cannot be told apart, the user is asked.

    Sizes and colours are never guessed: images of one size and kind are used unchanged. Mixed ones are rejected, with
    counts, until the config sets a common size or number of channels.

    Args:
        path: the folder, below the datastore's root or absolute; null: the root itself.
        image_size: size to resize all images to: a number, or [height, width].
        channels: 1 converts all images to greyscale, 3 to colour.
        parts: the folder of each split, `train`, `validation`, `test`; False: there are no splits; None: detect them.
    """

    may_be_held = True

    def __init__(
        self,
        path: str | None = None,
        image_size: int | list[int] | None = None,
        channels: int | None = None,
        verify: bool = True,
        parts: Mapping[str, str] | bool | None = None,
    ) -> None:
        self.path, self.parts = path, parts
        self.size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size or ())
        if len(self.size) not in (0, 2):
            raise DataError(f"dataset.image_size={image_size}: expected a number, or two: [height, width]")
        self.channels = channels
        self._found: dict[Path, FolderListing] = {}

    @staticmethod
    def warm() -> None:
        import PIL.Image  # noqa: F401

    def candidates(self) -> Sequence[str] | None:
        return None if is_absolute(self.path) else (self.path or "",)

    def find(self, root: Path) -> bool:
        return self._folder(root).is_dir()

    def files(self, root: Path) -> Sequence[Path]:
        _, files, _ = self._listed(root)
        return [path for part in files.values() for path, _ in part]

    def needed(self, root: Path) -> int | None:
        paths = self.files(root)
        size, mode = _header(paths[0])
        channels = self.channels or (1 if mode in GREY_MODES else 3)
        return len(paths) * math.prod(self.size or size) * channels

    def read(self, root: Path) -> RawData:
        return self._raw(root, self._load)

    def stream(self, root: Path) -> RawData:
        return self._raw(root, self._unread)

    def _raw(self, root: Path, load: Callable[[list[tuple[Path, int]]], Part]) -> RawData:
        names, files, found_notes = self._listed(root)
        everything = [path for part in files.values() for path, _ in part]
        notes = self._decide(everything)
        if load == self._load:
            self._check_memory(len(everything))
        parts = {part: load(entries) for part, entries in files.items()}
        return RawData(
            parts["train"],
            parts.get("test"),
            tuple(map(storable, names)),
            tuple(everything),
            parts.get("validation"),
            (*notes, *found_notes),
        )

    def _listed(self, root: Path) -> FolderListing:
        """Return the classes, each split's files with their class index, and notes; listed only once."""
        if root not in self._found:
            self._found[root] = self._list(root)
        return self._found[root]

    def _list(self, root: Path) -> FolderListing:
        folder = self._folder(root)
        if not folder.is_dir():
            raise MissingDataError(
                f"{folder} is not a folder. image_folder needs a folder with one folder of images per class "
                "(or train/ and test/ with those): set it with dataset.path or datastore.root"
            )
        found = layout(folder, self.parts)
        names = tuple(sorted(_class_folders(found.parts["train"])))
        return names, {part: _image_files(path, names) for part, path in found.parts.items()}, found.notes

    def _folder(self, root: Path) -> Path:
        return (root / self.path).resolve() if self.path else root

    def _decide(self, paths: list[Path]) -> list[str]:
        """Determine size and channels for all images, or raise; return notes for the user."""
        sizes: Counter[tuple[int, int]] = Counter()
        modes: Counter[str] = Counter()
        example: dict[object, Path] = {}
        for path in paths:
            size, mode = _header(path)
            sizes[size] += 1
            modes[mode] += 1
            example.setdefault(size, path)
            example.setdefault(mode, path)
        if len(sizes) > 1 and not self.size:
            listing = "; ".join(
                f"{h}x{w}: {messages.counted(n, 'file')}, such as {example[(h, w)]}"
                for (h, w), n in sizes.most_common(5)
            )
            raise DataError(
                f"the images differ in size (height x width): {listing}. Set a common size, for example "
                f"dataset.image_size={_as_option(sizes.most_common(1)[0][0])}"
            )
        grey = sum(count for mode, count in modes.items() if mode in GREY_MODES)
        if 0 < grey < len(paths) and self.channels is None:
            colour_mode = next(mode for mode in modes if mode not in GREY_MODES)
            raise DataError(
                f"{grey} of {len(paths)} images are grey and {len(paths) - grey} are in colour (such as "
                f"{example[colour_mode]}): convert all of them with dataset.channels=1 or dataset.channels=3"
            )
        self.size = self.size or next(iter(sizes))
        self.channels = self.channels or (1 if grey else 3)
        notes = [f"{len(paths):,} images, {self.size[0]}x{self.size[1]}, {'grey' if self.channels == 1 else 'colour'}"]
        if any(size != self.size for size in sizes):
            notes.append(f"resized: {sum(n for s, n in sizes.items() if s != self.size):,} images")
        wanted = {"L"} if self.channels == 1 else {"RGB"}
        if set(modes) - wanted:
            changed = ", ".join(f"{count} {mode}" for mode, count in modes.items() if mode not in wanted)
            notes.append(f"converted to {next(iter(wanted))}: {changed}")
        return notes

    def _check_memory(self, count: int) -> None:
        import psutil

        needed = count * self.size[0] * self.size[1] * (self.channels or 1)
        free = psutil.virtual_memory().available
        if needed > MEMORY_SHARE * free:
            raise DataError(
                f"{count:,} images of {self.size[0]}x{self.size[1]} take {needed / 2**30:.1f} GB in memory, and "
                f"{free / 2**30:.1f} GB are free: choose a smaller dataset.image_size; networks can also stream them "
                "from disk, with dataset.in_memory=auto or false"
            )

    def _load(self, entries: list[tuple[Path, int]]) -> Part:
        x = np.empty((len(entries), self.channels or 1, *self.size), np.uint8)
        for place, (path, _) in enumerate(entries):
            x[place] = _pixels(path, self.size, self.channels == 1)
        return Part(x, np.array([label for _, label in entries], np.int64))

    def _unread(self, entries: list[tuple[Path, int]]) -> Part:
        shape = (self.channels or 1, *self.size)
        load = functools.partial(_pixels, size=self.size, is_grey=self.channels == 1)
        rows: Any = Rows(Files([path for path, _ in entries], shape, np.uint8, load))
        return Part(rows, np.array([label for _, label in entries], np.int64))


def _pixels(path: Path, size: tuple[int, ...], is_grey: bool) -> AnyArray:
    from PIL import Image

    try:
        with Image.open(path) as opened:
            image = opened.convert("L" if is_grey else "RGB")
            if (image.height, image.width) != size:
                image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
            pixels = np.asarray(image, np.uint8)
    except (OSError, ValueError, SyntaxError) as error:
        raise CorruptDataError(f"{path} cannot be read as an image: {error}") from error
    return pixels[None] if is_grey else pixels.transpose(2, 0, 1)


def _as_option(size: tuple[int, int]) -> str:
    return str(size[0]) if size[0] == size[1] else f"[{size[0]},{size[1]}]"


def _class_folders(folder: Path, must: bool = True) -> list[str]:
    names = [path.name for path in subfolders(folder)]
    if must and len(names) < 2:
        raise DataError(
            f"{folder} holds {messages.counted(len(names), 'class folder')}{': ' + names[0] if names else ''}; a "
            "classifier needs at least two: one folder per class, each with its images"
        )
    return names


def _image_files(folder: Path, names: tuple[str, ...]) -> list[tuple[Path, int]]:
    present = set(_class_folders(folder, must=False))
    if present != set(names):
        raise DataError(
            f"the classes in {folder} are not those of the training split: missing {sorted(set(names) - present)}, "
            f"unknown {sorted(present - set(names))}"
        )
    found = []
    for label, name in enumerate(names):
        own = sorted(images(folder / name))
        if not own:
            raise DataError(f"{folder / name} holds no image (looked for {', '.join(sorted(SUFFIXES))})")
        found += [(path, label) for path in own]
    return found


def _header(path: Path) -> tuple[tuple[int, int], str]:
    """Read height, width and mode from the file's header alone."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            size, mode = (image.height, image.width), image.mode
            raw_modes = [tile[3] if isinstance(tile[3], str) else tile[3][0] for tile in image.tile if tile[3]]
            if any(str(raw).startswith(DEEP_MODES) for raw in raw_modes):
                mode = f"{mode} of 16 bits"
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CorruptDataError(f"{path} cannot be read as an image: {error}") from error
    if mode not in GREY_MODES | COLOUR_MODES:
        raise DataError(f"{path} has {mode!r} pixels; labrun reads 8-bit grey and colour images: convert it first")
    return size, mode
