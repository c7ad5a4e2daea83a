"""How much room a text takes on a terminal, whatever its script, and how it is broken and cut there."""

from __future__ import annotations

import unicodedata

MORE = "…"
_DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}  # they would reach beyond the text
_ATTACHED = {"Mn", "Me", "Mc", "Cf"}  # combining marks and joiners: never at the beginning of a line


def one_line(text: str) -> str:
    """The text without what would move the cursor or turn what stands beside it: blanks for breaks and controls."""
    kept = (
        " " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c
        for c in text
        if unicodedata.bidirectional(c) not in _DIRECTIONS
    )
    return " ".join("".join(kept).split())


def clusters(text: str) -> list[tuple[str, int]]:
    """Characters with the marks that stand on them, and how many columns each takes: 2 where East Asian ones are wide."""
    found: list[tuple[str, int]] = []
    for char in text:
        jamo = "\u1160" <= char <= "\u11ff"  # vowels and finals of a Hangul syllable that is written in parts
        kind = unicodedata.category(char)
        if found and (kind in _ATTACHED or jamo):
            before, columns = found[-1]
            found[-1] = before + char, columns + (kind == "Mc")
        else:
            wide = unicodedata.east_asian_width(char) in "WF"
            found.append((char, 0 if kind in ("Mn", "Me", "Cf") else 1 + wide))
    return found


def columns(text: str) -> int:
    return sum(width for _, width in clusters(text))


def wrapped(text: str, width: int, most: int | None = None) -> list[str]:
    """The text in lines of at most `width` columns; with `most` no more than so many, the last ending in an ellipsis.

    Lines break at blanks; where a line has none in its second half, as in Chinese or Thai, between any two characters.
    """
    rest = clusters(one_line(text))
    lines: list[str] = []
    while rest:
        end = _fitting(rest, width)
        if most is not None and len(lines) + 1 == most and end < len(rest):
            kept = rest[: _fitting(rest, width - 1)]
            return [*lines, "".join(c for c, _ in kept).rstrip() + MORE]
        if end < len(rest):
            blanks = [i for i in range(end // 2, end + 1) if rest[i][0] == " "]
            end = blanks[-1] if blanks and blanks[-1] else end
        lines.append("".join(c for c, _ in rest[:end]).strip())
        rest = rest[end + (end < len(rest) and rest[end][0] == " ") :]
    return lines


def fitted(text: str, width: int) -> str:
    """The text in one line of at most `width` columns."""
    return next(iter(wrapped(text, width, 1)), "")


def _fitting(rest: list[tuple[str, int]], width: int) -> int:
    """How many of these clusters stand in `width` columns: at least one."""
    used = 0
    for i, (_, columns_of) in enumerate(rest):
        used += columns_of
        if used > width:
            return max(i, 1)
    return len(rest)
