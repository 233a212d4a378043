"""Errors that are somebody's to mend: each is one line naming what was found, expected, and to do.

A command prints the message and ends with `exit_code`; anything else that escapes is a fault of this
project and shows its traceback.
"""

import errno


class ProjectError(Exception):
    """Something the user can act on; the message is one complete line."""

    exit_code = 1


class ConfigError(ProjectError):
    """Wrong arguments or configuration."""

    exit_code = 2


class DataError(ProjectError):
    """An input, a shard or a checkpoint is broken, missing or not what it should be."""


def explain(error: Exception) -> str | None:
    """What to tell about an error that somebody can act on; None for a fault of this project."""
    if isinstance(error, ProjectError):
        return str(error)
    if isinstance(error, OSError) and (error.filename or error.errno == errno.ENOSPC):
        full = error.errno == errno.ENOSPC
        advice = "free space and start again" if full else "mend it, or its path"
        # Of two files, as in a copy, the disk of the second is full.
        file = (full and error.filename2) or error.filename or "output"
        return f"{file}: {error.strerror}; {advice}"
    return None


def exit_code(error: Exception) -> int:
    """The code with which a command ends that `error` stopped."""
    return error.exit_code if isinstance(error, ProjectError) else 1
