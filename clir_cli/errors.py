"""The errors a user can meet. Each message names the value, the place, what is valid and the next step."""

from __future__ import annotations


class ClirError(Exception):
    """Something the user can mend; the CLI prints the message without a traceback and exits with `exit_code`."""

    exit_code = 1


class ConfigError(ClirError):
    """The request is invalid: a group, option, value or combination that does not exist."""

    exit_code = 2


class DataError(ClirError):
    """A file that does not parse or does not fit: the message starts with `file:line:` where there is one."""

    exit_code = 2


class MissingData(DataError):
    """Data is not on this machine and cannot be fetched; the message says what is missing, and how to get it where that is known."""


class LanguageError(ConfigError):
    """A component was given a language that it cannot handle; the message names the explicit opt-in."""


class MissingModel(ClirError):
    """A model is not on this machine and the hub is out of reach or refuses it."""


class RunError(ClirError):
    """The request was valid and the run failed: a server, a program, a disk or a budget."""


def many(count: float, one: str, more: str = "") -> str:
    """`1 topic`, `2 topics`: a number and what there are so many of; `more` where an s is not enough."""
    return f"{count:.0f} {one if count == 1 else more or f'{one}s'}"
