"""What each command of `python -m data_prep` does with its arguments; the work is done elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from data_prep.config import CorpusConfig
from data_prep.config_file import Section, load_config, parse_overrides, to_yaml, validate
from data_prep.errors import ConfigError, DataError
from data_prep.files import write_atomically
from data_prep.lock import FolderLock

LOCK_WAIT_S = 5.0  # workers of a killed run end with it
READS_RAW = ("download", "extract", "curate", "all")

Command = Callable[[list[str]], None]
Options = TypeVar("Options", bound=Section)


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

    (place,) = _words("status", "CONFIG or OUTPUT", arguments, 1, 1)
    show_status(Path(place))


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

    (output,) = _words("card", "OUTPUT", arguments, 1, 1)
    print(write_card(Path(output)))


def fertility(arguments: list[str]) -> None:
    """Tokens per word and character of a corpus, by its tokenizer and others."""
    from data_prep.tokenizer.fertility_report import report_fertility

    output, *folders = map(Path, _words("fertility", "OUTPUT [TOKENIZER ...]", arguments, 1))
    report_fertility(output, folders)


def verify(arguments: list[str]) -> None:
    """Read shard sets whole."""
    from data_prep.parallel import cores
    from data_prep.shards.tools.verify import VerifyOptions, verify

    words, given = _before_options(arguments)
    places = _words("verify", "SHARD_SET ...", words, 1)
    options = _options("verify", VerifyOptions, given)
    lines: list[str] = []
    for place in places:
        problems = verify(place, options.workers or cores())
        lines += problems
        if not problems:
            print(f"{place}: whole", flush=True)
    if lines:
        raise DataError("\n".join(lines))


def inspect(arguments: list[str]) -> None:
    """Show some rows of a shard set."""
    from data_prep.shards.tools.inspect import InspectOptions, inspect

    words, given = _before_options(arguments)
    place, *rows = _words("inspect", "SHARD_SET [ROWS]", words, 1, 2)
    if rows:
        given = ["--rows", rows[0], *given]
    inspect(place, _options("inspect", InspectOptions, given))


def stats(arguments: list[str]) -> None:
    """Tell what is in shard sets, side by side."""
    from data_prep.shards.tools.statistics_table import StatisticsOptions, show_statistics

    words, given = _before_options(arguments)
    places = _words("stats", "SHARD_SET ...", words, 1)
    show_statistics(places, _options("stats", StatisticsOptions, given))


def fetch(arguments: list[str]) -> None:
    """Copy a shard set to local disk."""
    from data_prep.shards.tools.fetch import fetch

    place, out = _words("fetch", "SHARD_SET OUT", arguments, 2, 2)
    manifest = fetch(place, Path(out))
    print(f"{out}: {len(manifest.hashes)} files, whole")


def merge(arguments: list[str]) -> None:
    """Make one shard set of several."""
    from data_prep.shards.storage import local_folder, storage_of
    from data_prep.shards.tools.merge import MergeOptions, merge

    words, given = _before_options(arguments)
    *places, out = _words("merge", "SHARD_SET SHARD_SET ... OUT", words, 3)
    source = _options("merge", MergeOptions, given).source
    manifest = merge([local_folder(storage_of(place)) for place in places], Path(out), source)
    print(f"{out}: {len(manifest.files)} files, {manifest.counts['documents']:,} documents")


def split(arguments: list[str]) -> None:
    """Split a shard set into several."""
    from data_prep.shards.storage import local_folder, storage_of
    from data_prep.shards.tools.split import SplitOptions, parse_weights, split

    words, given = _before_options(arguments)
    place, out = _words("split", "SHARD_SET OUT", words, 2, 2)
    weights = parse_weights(_options("split", SplitOptions, given).parts)
    for name, manifest in split(local_folder(storage_of(place)), Path(out), weights).items():
        counts = manifest.counts
        print(f"{out}/{name}: {counts['documents']:,} documents, {counts['tokens']:,} tokens")


def convert(arguments: list[str]) -> None:
    """A shard set to another trainer's format, or from one."""
    from data_prep.convert.convert import convert
    from data_prep.shards.storage import local_folder, storage_of

    words, given = _before_options(arguments)
    place, out = _words("convert", "INPUT OUT", words, 2, 2)
    print(convert(local_folder(storage_of(place)), Path(out), given))


COMMANDS: dict[str, Command] = {
    "status": status,
    "sources": sources,
    "card": card,
    "fetch": fetch,
    "fertility": fertility,
    "convert": convert,
    "inspect": inspect,
    "merge": merge,
    "split": split,
    "stats": stats,
    "verify": verify,
}


def _before_options(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The words after a command, and the options after them."""
    first = next((k for k, word in enumerate(arguments) if word.startswith("--")), len(arguments))
    return arguments[:first], arguments[first:]


def _words(
    command: str, expected: str, words: list[str], least: int, most: int | None = None
) -> list[str]:
    """The words, none of them an option, where they are as many as the command wants."""
    option = next((word for word in words if word.startswith("--")), None)
    if option or not least <= len(words) <= (most or len(words)):
        found = f"the option {option}" if option else " ".join(words) or "nothing"
        raise ConfigError(
            f"{command}: expected {expected} after it, found {found}; see python -m data_prep --help"
        )
    return words


def _options(command: str, model: type[Options], given: list[str]) -> Options:
    return validate(model, dict(parse_overrides(given)), command)


def _config(command: str, arguments: list[str]) -> CorpusConfig:
    if not arguments:
        raise ConfigError(f"{command}: expected a config after it; see python -m data_prep --help")
    path, *overrides = arguments
    return load_config(CorpusConfig, Path(path), list(map(_spelled_out, overrides)))


def _spelled_out(argument: str) -> str:
    """--since, which deserves a short name, as the key that it sets."""
    flag, equals, value = argument.partition("=")
    return f"--curate.since{equals}{value}" if flag == "--since" else argument
