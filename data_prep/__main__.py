"""Text in, shards out, stage by stage.

python -m data_prep STAGE CONFIG [--section.key value ...] [--allow-failed]
    STAGE: download, extract, curate, tokenizer, pack, instruct, or all (download to pack)
python -m data_prep inspect SHARD_SET [ROWS]
python -m data_prep verify SHARD_SET ...
"""

import difflib
import sys
from collections.abc import Sequence
from pathlib import Path

from data_prep.config import CorpusConfig
from data_prep.config_file import load_config
from data_prep.errors import ConfigError, DataError, ProjectError, exit_code, explain
from data_prep.lock import FolderLock

LOCK_WAIT_S = 5.0  # workers of a killed run end with it


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code: 0, 1 for broken data, 2 for wrong arguments or config."""
    if not arguments or "--help" in arguments or "-h" in arguments:
        print(__doc__)
        return 0 if arguments else 2
    try:
        _run(arguments[0], list(arguments[1:]))
    except (ProjectError, OSError) as error:
        message = explain(error)
        if message is None:
            raise
        print(message, file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130  # 128 + SIGINT, as shells say it
    return 0


def _run(command: str, arguments: list[str]) -> None:
    if command in ("inspect", "verify"):
        if not arguments:
            raise ConfigError(f"{command}: expected the folder of a shard set after it")
        _look(command, arguments)
        return
    from data_prep.pipeline import NAMES, run

    if command not in NAMES:
        near = difflib.get_close_matches(command, NAMES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(NAMES)}"
        raise ConfigError(f"{command}: unknown stage; {hint}")
    allow_failed = "--allow-failed" in arguments
    arguments = [argument for argument in arguments if argument != "--allow-failed"]
    if not arguments:
        raise ConfigError(f"{command}: expected a config after it; see python -m data_prep --help")
    path, *overrides = arguments
    config = load_config(CorpusConfig, Path(path), overrides)
    lock = FolderLock(config.output, "output")
    lock.acquire(LOCK_WAIT_S)
    run(command, config, allow_failed)


def _look(command: str, arguments: list[str]) -> None:
    folder = Path(arguments[0])
    if command == "verify":
        from data_prep.shards.verify import verify

        problems = {path: verify(Path(path)) for path in arguments}
        for path in (path for path, found in problems.items() if not found):
            print(f"{path}: whole")
        if any(problems.values()):
            raise DataError("\n".join(line for found in problems.values() for line in found))
        return
    from data_prep.shards.inspect import inspect

    rows = arguments[1] if len(arguments) > 1 else "3"
    if not rows.isdigit():
        raise ConfigError(f"inspect: {rows!r} is not a number of rows")
    inspect(folder, int(rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
