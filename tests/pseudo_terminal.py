"""A pseudo-terminal with a command in it, for commands that ask the user."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path


class Terminal:
    """A command with its own controlling terminal.

    Args:
        words: the program and its arguments.
        cwd: its working folder.
    """

    def __init__(self, words: Sequence[str], cwd: Path) -> None:
        self._fd, inner = pty.openpty()
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *words], cwd=cwd, stdin=inner, stdout=inner, stderr=inner
        )
        os.close(inner)
        self.text = ""

    def type(self, text: str) -> None:
        """Type text into the terminal."""
        os.write(self._fd, text.encode())

    def expect(self, text: str, timeout_s: float = 60) -> str:
        """Wait until a text is shown, and return all output since the last call."""
        end = time.monotonic() + timeout_s
        while text not in self.text:
            assert time.monotonic() < end, self.text
            if select.select([self._fd], [], [], 0.1)[0]:
                try:
                    self.text += os.read(self._fd, 65536).decode(errors="replace")
                except OSError:  # the command has ended
                    assert text in self.text, self.text
        before, _, self.text = self.text.partition(text)
        return before + text

    def end(self) -> int:
        """Wait for the command to end, and return its exit code."""
        try:
            while self.process.poll() is None:
                if select.select([self._fd], [], [], 0.1)[0]:
                    self.text += os.read(self._fd, 65536).decode(errors="replace")
        except OSError:
            pass
        code = self.process.wait(20)
        os.close(self._fd)
        return code
