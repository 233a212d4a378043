"""Errors that are somebody's to mend: each is one line naming what was found, expected, and to do.

A command prints the message and ends with `exit_code`; anything else that escapes is a fault of this
project and shows its traceback.
"""


class ProjectError(Exception):
    """Something the user can act on; the message is one complete line."""

    exit_code = 1


class ConfigError(ProjectError):
    """Wrong arguments or configuration."""

    exit_code = 2


class DataError(ProjectError):
    """An input, a shard or a checkpoint is broken, missing or not what it should be."""
