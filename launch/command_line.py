"""How the commands of this folder that are not distributed jobs begin, and end for a user's mistake."""

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from data_prep.config_file import Section, load_config, split_command_line
from data_prep.errors import ConfigError, ProjectError, exit_code, explain

Config = TypeVar("Config", bound=Section)


def run_command(
    name: str, model: type[Config], main: Callable[[Config], None], arguments: Sequence[str]
) -> int:
    """Read `[--config FILE] [--section.key value]`, call `main`, return the exit code.

    A ProjectError becomes its message on standard error and its exit code: 2 for a wrong config, else 1.
    """
    usage = f"usage: python launch/{name}.py [--config FILE] [--section.key value ...]"
    if "--help" in arguments or "-h" in arguments:
        print(usage)
        return 0
    try:
        path, overrides = split_command_line(arguments)
        if path is None and not overrides:
            raise ConfigError(f"nothing to do; {usage}")
        main(load_config(model, path, overrides))
    except (ProjectError, OSError) as error:
        message = explain(error)
        if message is None:
            raise
        print(message, file=sys.stderr)
        return exit_code(error)
    return 0
