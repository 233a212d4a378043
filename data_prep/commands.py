"""What each command of `python -m data_prep` does with its arguments; the work is done elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from data_prep.config import CorpusConfig
from data_prep.config_file import load_config, to_yaml
from data_prep.errors import ConfigError, DataError
from data_prep.files import write_atomically
from data_prep.lock import FolderLock

LOCK_WAIT_S = 5.0  # workers of a killed run end with it
READS_RAW = ("download", "extract", "curate", "all")

Command = Callable[[list[str]], None]


def stage(name: str, arguments: list[str]) -> None:
    """Run a stage, or all, of a corpus."""
    from data_prep.pipeline import run
    from data_prep.status import CONFIG

    allow_failed = "--allow-failed" in arguments
    config = _config(name, [word for word in arguments if word != "--allow-failed"])
    locks = [FolderLock(config.output, "output")]  # held for as long as the list is
    if config.raw and name in READS_RAW and config.raw.resolve() != config.output.resolve():
        locks.append(FolderLock(config.raw, "raw"))
    for lock in locks:
        lock.acquire(LOCK_WAIT_S)
    with write_atomically(config.output / CONFIG) as partial:
        partial.write_text(to_yaml(config), encoding="utf-8")
    run(name, config, allow_failed)


def status(arguments: list[str]) -> None:
    """Where each stage stands."""
    from data_prep.status import show_status

    if len(arguments) != 1:
        raise ConfigError("status: expected a corpus config, or its output folder, after it")
    show_status(Path(arguments[0]))


def sources(arguments: list[str]) -> None:
    """Probe what the sources come from."""
    from data_prep.download.check import check_sources, tell

    if arguments[:1] != ["check"]:
        raise ConfigError("sources: expected `sources check CONFIG`")
    if not tell(check_sources(_config("sources check", arguments[1:]))):
        raise DataError("sources check: not all is as the config takes it for (above)")


def card(arguments: list[str]) -> None:
    """Write the corpus card anew, from what is there now."""
    from data_prep.card.markdown import write_card

    if len(arguments) != 1:
        raise ConfigError("card: expected the output folder of a corpus after it")
    print(write_card(Path(arguments[0])))


def verify(arguments: list[str]) -> None:
    """Read shard sets whole."""
    from data_prep.shards.verify import verify

    if not arguments:
        raise ConfigError("verify: expected the folder of a shard set after it")
    problems = {path: verify(Path(path)) for path in arguments}
    for path in (path for path, found in problems.items() if not found):
        print(f"{path}: whole")
    if any(problems.values()):
        raise DataError("\n".join(line for found in problems.values() for line in found))


def inspect(arguments: list[str]) -> None:
    """Show some rows of a shard set."""
    from data_prep.shards.inspect import inspect

    if not arguments:
        raise ConfigError("inspect: expected the folder of a shard set after it")
    folder, rows, *_ = [*arguments, "3"]
    if not rows.isdigit():
        raise ConfigError(f"inspect: {rows!r} is not a number of rows")
    inspect(Path(folder), int(rows))


COMMANDS: dict[str, Command] = {
    "status": status,
    "sources": sources,
    "card": card,
    "inspect": inspect,
    "verify": verify,
}


def _config(command: str, arguments: list[str]) -> CorpusConfig:
    if not arguments:
        raise ConfigError(f"{command}: expected a config after it; see python -m data_prep --help")
    path, *overrides = arguments
    return load_config(CorpusConfig, Path(path), list(map(_spelled_out, overrides)))


def _spelled_out(argument: str) -> str:
    """--since, which deserves a short name, as the key that it sets."""
    flag, equals, value = argument.partition("=")
    return f"--curate.since{equals}{value}" if flag == "--since" else argument
