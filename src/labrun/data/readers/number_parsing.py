"""Parsing of formatted numbers: thousands separators, currency symbols, per cent, decimal commas."""

from __future__ import annotations

import re

SIGNS = ("$", "€", "£", "¥", "₹", "%", "USD", "EUR", "GBP", "CHF", "JPY")
"""Units that may precede or follow the numbers of a column."""
PLAIN = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
GROUP = "[ \u00a0\u202f\u2009'\u2019_]"
WITH_POINT = re.compile(
    rf"[+-]?(?=\.?\d)(?:[1-9]\d{{0,2}}(?:,\d{{3}})+|[1-9]\d{{0,2}}(?:{GROUP}\d{{3}})+|\d+)?(?:\.\d*)?(?:[eE][+-]?\d+)?"
)
WITH_COMMA = re.compile(
    rf"[+-]?(?=,?\d)(?:[1-9]\d{{0,2}}(?:\.\d{{3}})+|[1-9]\d{{0,2}}(?:{GROUP}\d{{3}})+|\d+)?(?:,\d*)?(?:[eE][+-]?\d+)?"
)
SURELY_COMMA = re.compile(r"[+-]?(?:(?:[1-9]\d{0,2}(?:\.\d{3})+|\d+),(?:\d{1,2}|\d{4,})|0\d*,\d+|\d{4,},\d+|,\d+)")
SURELY_POINT = re.compile(
    r"[+-]?(?:\d+\.(?:\d{1,2}|\d{4,})|0\.\d+|\d{4,}\.\d+|\.\d+|\d{1,3}(?:,\d{3})+\.\d+|[1-9]\d{0,2}(?:,\d{3}){2,})"
)
EITHER = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
POINT_OR_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}\.\d{3}")
EITHER_POINT = re.compile(r"[+-]?(?:[1-9]\d{0,2}(?:\.\d{3})?|0)")


BEHIND = re.compile(r"^\d.*[.,]\d\d-$")
DECIMALS = {"point": ".", "comma": ","}
"""Names of the decimal separators; a literal comma would have to be quoted twice on the command line."""
EDGES = frozenset("0123456789.,")


def bare_of(text: str) -> tuple[str, str]:
    """Split a number from its currency or per cent sign; a number in parentheses is negative."""
    if text[:1] in EDGES and text[-1:] in EDGES:
        return text, ""
    text = text.replace("\u2212", "-")  # the minus sign that word processors insert
    minus = ""
    if BEHIND.search(text):  # as SAP writes 12,50-
        text = f"-{text[:-1]}"
    if text.startswith("(") and text.endswith(")"):
        text, minus = text[1:-1].strip(), "-"
    if text[:1] in "+-" and text[1:].lstrip() != text[1:]:
        text = text[:1] + text[1:].lstrip()
    for sign in SIGNS:
        for start in ("", "-", "+"):
            if text.startswith(start + sign):
                return minus + start + text[len(start + sign) :].strip(), sign
        if text.endswith(sign):
            return minus + text[: -len(sign)].strip(), sign
    return minus + text, ""


def unit_of(text: str) -> str:
    """Return the currency or per cent sign of a number, or an empty string."""
    return bare_of(text)[1]


def number(text: str, decimal: str) -> float | None:
    """Parse a text as a number, with or without thousands separators; None if it is not one. `12 %` is 12."""
    if PLAIN.fullmatch(text) and decimal == ".":
        return float(text)
    bare, _ = bare_of(text)
    if not any(sign.isdigit() for sign in bare) or (not bare.isascii() and not re.search(GROUP, bare)):
        return None
    if not (WITH_POINT if decimal == "." else WITH_COMMA).fullmatch(bare):
        return None
    plain = re.sub(GROUP, "", bare)
    plain = plain.replace(",", "") if decimal == "." else plain.replace(".", "").replace(",", ".")
    return float(plain)
