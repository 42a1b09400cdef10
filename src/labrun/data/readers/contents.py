"""Decompression, format detection and decoding of table files; ambiguous cases raise an error that asks the user."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import zipfile
import zlib
from pathlib import Path

from labrun.data.readers.table_form import TableForm
from labrun.errors import ConfigError, CorruptDataError, DataError

TEXT, PARQUET, EXCEL = "text", "Parquet", "Excel"
"""File formats of tables."""
SUFFIXES = (".csv", ".tsv", ".tab", ".parquet", ".pq", ".xlsx", ".xlsm", ".xls")
ALSO = (".txt", ".dat")
PACKED = (".gz", ".bz2", ".xz", ".zip")
"""File name suffixes of tables; of text files that may be tables; of compression, which may follow either."""
UNPACK = ((b"\x1f\x8b", gzip.decompress), (b"BZh", bz2.decompress), (b"\xfd7zXZ\0", lzma.decompress))
"""Magic bytes of each compression, and the function that decompresses it."""
ZIP = b"PK\x03\x04"
TO_CSV = "Save it as .csv, .xlsx or .parquet"
OTHERS = (
    (b"\xd0\xcf\x11\xe0", f"an Excel file from before 2007, or one with a password. {TO_CSV} (without a password)"),
    (b"ARROW1", "an Arrow (Feather) file. Save it as .parquet"),
    (b"(\xb5/\xfd", "compressed with zstandard, which labrun does not read. Decompress it, or use gzip"),
    (b"SQLite format 3\0", "an SQLite database. Export the table as .csv"),
    (b"\x89HDF\r\n", f"an HDF5 file. {TO_CSV}"),
    (b"\x93NUMPY", "a NumPy array. Save it with numpy.savez, and use dataset=npz"),
    (b"%PDF", f"a PDF. {TO_CSV}"),
)
"""Magic bytes of unsupported table formats, with a description and advice for the message."""
BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
WORD = r"[^\s,;|\"]+"
SAMPLE_BYTES = 2**16
MAX_LISTED = 40
SIGNS = "€‚„†‡ˆ‰‹›“”•˜¡¢£¤¥¦§¨©«¬®¯°±²³´¶¸¹»¼½¾¿"
ODD = re.compile(rf"[^\W\d_](?:[{SIGNS}]|(?<=[a-z])[ŒŠŸŽÀ-ÖØ-Ý])[^\W\d_]")
"""Matches symbols, or a capital after a lower-case letter, inside a word: signs that the encoding is wrong."""


def is_table(path: Path, surely: bool = False) -> bool:
    """Return whether a file name is that of a table, compressed or not; `surely` excludes general text files."""
    name = path.name.lower()
    for ending in PACKED:
        name = name.removesuffix(ending)
    return name.endswith(SUFFIXES if surely else (*SUFFIXES, *ALSO))


def unpacked(path: Path) -> bytes:
    """Read a file, decompressing it if necessary.

    Raises:
        CorruptDataError: the file cannot be read, or is damaged.
        DataError: it is an archive of several files.
    """
    try:
        content = path.read_bytes()
        for begin, unpack in UNPACK:
            if content.startswith(begin):
                content = unpack(content)
                break
        if content.startswith(ZIP) and not _is_excel(content):
            content = _only_member(content, path)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise CorruptDataError(f"{path} is not a readable table: {error or 'it is truncated'}") from error
    if content[257:262] == b"ustar":
        raise DataError(f"{path} is an archive (tar): unpack it, and name the table with dataset.path")
    return content


def kind(content: bytes, path: Path) -> str:
    """Detect the format of a table: `TEXT`, `PARQUET` or `EXCEL`.

    Raises:
        DataError: labrun does not read this format; the message says what to do.
    """
    if content.startswith(b"PAR1"):
        return PARQUET
    if content.startswith(ZIP):
        return EXCEL
    found = next((what for begin, what in OTHERS if content.startswith(begin)), None)
    if found is not None:
        raise DataError(f"{path} is {found}")
    if re.match(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html|table|\?xml)\b", content[:200], re.I):
        raise DataError(f"{path} is a web page or XML, not a table. {TO_CSV}")
    if re.match(rb'(?:\xef\xbb\xbf)?\s*(?:\[\s*)?\{\s*"[^"\n]*"\s*:', content[:2000]):
        raise DataError(f"{path} is JSON, not a table. {TO_CSV} (pandas: read_json, then to_csv)")
    return TEXT


def _names(content: bytes) -> list[str]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [one.filename for one in archive.infolist() if not one.is_dir()]


def _is_excel(content: bytes) -> bool:
    return any(name.startswith("xl/") for name in _names(content))


def _only_member(content: bytes, path: Path) -> bytes:
    names = [name for name in _names(content) if not name.startswith("__MACOSX/")]
    if "mimetype" in names and "content.xml" in names:
        raise DataError(f"{path} is an OpenDocument file. {TO_CSV}")
    if len(names) != 1:
        listed = ", ".join(names[:5]) or "none"
        raise DataError(f"{path} holds {len(names)} files ({listed}): unpack it, and name the table with dataset.path")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        try:
            return archive.read(names[0])
        except (RuntimeError, NotImplementedError) as error:  # password, or unsupported compression
            raise DataError(f"{path}: {error}: unpack it first") from error


def decoded(content: bytes, path: Path, form: TableForm) -> tuple[str, str | None]:
    """Decode bytes to text.

    Without a given encoding, it is that of the byte order mark, else UTF-8, UTF-16 or UTF-32 without a mark, else
    cp1252.

    Args:
        content: content of the file.
        path: path of the file, for messages.
        form: what the user says about the file.

    Returns:
        The text; a note on the encoding if it is not UTF-8.

    Raises:
        CorruptDataError: it is not text, or not in this encoding.
        DataError: the encoding is ambiguous.
        ConfigError: there is no such encoding.
    """
    mark = next((name for mark, name in BOMS if content.startswith(mark)), None)
    key = form.key("encoding")
    if form.encoding is not None:
        return _as_said(content, path, key, form.encoding, mark), None
    if mark is not None:
        try:
            text = content.decode(mark)
        except UnicodeDecodeError as error:
            raise CorruptDataError(f"{path} is not text in {mark}, as its first bytes say: {error}") from error
        return text, None if mark == "utf-8-sig" else f"{mark.upper()}, as its first bytes say"
    if b"\0" in content:
        return _with_zeros(content, path, key)
    try:
        return content.decode("utf-8"), None
    except UnicodeDecodeError:
        pass
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError as error:
        raise CorruptDataError(f"{path} is neither UTF-8 nor cp1252: set {key}") from error
    example = next((word for word in re.findall(WORD, text) if not word.isascii()), "")[:MAX_LISTED]
    if _is_doubtful(text):
        raise DataError(
            f"{path} is not UTF-8, and its encoding is unclear: as cp1252 (Windows, Western Europe) it would read "
            f"{_odd_word(text)!r}. Set {key}: cp1252, cp1250 or iso8859-2 (Central Europe), cp1251 or "
            "koi8-r (Cyrillic), cp850 or cp437 (DOS), mac_roman, shift_jis, gbk, ..."
        )
    return text, f"not UTF-8, read as cp1252 (Windows), such as {example!r}; {key} sets another"


def _as_said(content: bytes, path: Path, key: str, encoding: str, mark: str | None) -> str:
    try:
        name = codecs.lookup(encoding).name
    except (LookupError, ValueError):
        raise ConfigError(f"{key}={encoding!r}: there is no such encoding; use utf-8, cp1252, utf-16, ...") from None
    if mark is not None and name.partition("-")[2][:2] != mark.partition("-")[2][:2]:
        raise ConfigError(
            f"{key}={encoding}: {path} begins with the byte order mark of "
            f"{mark.removesuffix('-sig').upper()}: leave {key} out"
        )
    try:
        return content.decode("utf-8-sig" if name == "utf-8" else encoding).removeprefix("\ufeff")
    except LookupError:
        raise ConfigError(f"{key}={encoding!r}: that is not an encoding of text") from None
    except UnicodeError as error:
        raise CorruptDataError(f"{path} is not text in {key}={encoding}: {error}") from error


def _with_zeros(content: bytes, path: Path, key: str) -> tuple[str, str]:
    """Decode UTF-16 or UTF-32 without a byte order mark, detected by the position of zero bytes."""
    sample = content[:SAMPLE_BYTES]
    for name, width, highest, lowest in (
        ("utf-32-le", 4, 3, 0),
        ("utf-32-be", 4, 0, 3),
        ("utf-16-le", 2, 1, 0),
        ("utf-16-be", 2, 0, 1),
    ):
        zeros = sample[highest::width].count(0)
        if len(content) % width or zeros <= 20 * sample[lowest::width].count(0):
            continue
        try:
            text = content.decode(name)
        except UnicodeDecodeError:
            continue
        if text.partition("\n")[0].rstrip("\r").replace("\t", " ").isprintable():
            return text, f"{name.upper()}, without a mark"
    raise CorruptDataError(
        f"{path} is not text: it holds zero bytes. If it is UTF-16 without a mark, set {key}=utf-16-le"
    )


def _is_doubtful(text: str) -> bool:
    """Return whether cp1252 is an unlikely encoding: words mostly of non-ASCII letters, or symbols inside words."""
    words = {word for word in re.findall(r"[^\W\d_]{2,}", text) if not word.isascii()}
    foreign = sum(2 * sum(not sign.isascii() for sign in word) > len(word) for word in words)
    return 2 * foreign > len(words) or ODD.search(text) is not None


def _odd_word(text: str) -> str:
    """Return a word that looks wrong in cp1252."""
    odd = ODD.search(text)
    words = [match for match in re.finditer(WORD, text) if not match[0].isascii()]
    return next(match[0] for match in words if odd is None or match.end() > odd.start())[:MAX_LISTED]
