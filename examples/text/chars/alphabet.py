"""The characters that the model knows, and their numbers."""

from __future__ import annotations

import string

import torch
from torch import Tensor

CHARACTERS = "".join(character for character in string.printable if character not in "\r\v\f")
UNKNOWN = len(CHARACTERS)
"""Number of all characters that are not in `CHARACTERS`."""
SIZE = len(CHARACTERS) + 1

_NUMBERS = {character: number for number, character in enumerate(CHARACTERS)}


def encoded(text: str) -> Tensor:
    """Encode a text as numbers, (characters,) int64."""
    return torch.tensor([_NUMBERS.get(character, UNKNOWN) for character in text], dtype=torch.long)


def decoded(numbers: Tensor) -> str:
    """Decode numbers into text; unknown characters become `?`."""
    return "".join(CHARACTERS[number] if number < UNKNOWN else "?" for number in numbers.tolist())
