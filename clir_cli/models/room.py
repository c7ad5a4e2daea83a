"""How many tokens a batch may hold, which is found out on a GPU whose memory is full."""

from __future__ import annotations

from dataclasses import dataclass

from clir_cli.errors import RunError
from clir_cli.progress import say


@dataclass
class Room:
    """Padded tokens of a batch."""

    tokens: int

    def halve(self, rows: int, longest: int, where: object, error: RuntimeError) -> None:
        """Half as many from here, said, where `rows` texts of up to `longest` tokens were too many.

        Raises RunError where a single text was, and `error` again if it is about anything but memory.
        """
        if type(error).__name__ != "OutOfMemoryError" and "out of memory" not in str(error):
            raise error
        if rows == 1:
            raise RunError(f"one text of {longest} tokens does not fit into the memory of {where}") from error
        self.tokens = rows // 2 * longest
        say(f"{where} is out of memory with {rows} x {longest} tokens: {self.tokens} tokens a batch from here")
