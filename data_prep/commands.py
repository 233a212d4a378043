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
    from data_prep.shards.parallel import cores
    from data_prep.shards.verify import VerifyOptions, verify

    places, overrides = _places("verify", arguments)
    options = load_config(VerifyOptions, None, overrides)
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
    from data_prep.shards.inspect import InspectOptions, inspect

    (place, *rows), overrides = _places("inspect", arguments)
    if rows:
        overrides = ["--rows", rows[0], *overrides]
    inspect(place, load_config(InspectOptions, None, overrides))


def stats(arguments: list[str]) -> None:
    """Tell what is in shard sets, side by side."""
    from data_prep.shards.statistics_table import StatisticsOptions, show_statistics

    places, overrides = _places("stats", arguments)
    show_statistics(places, load_config(StatisticsOptions, None, overrides))


def merge(arguments: list[str]) -> None:
    """Make one shard set of several."""
    from data_prep.shards.merge import MergeOptions, merge

    (output, *places), overrides = _places("merge", arguments)
    manifest = merge(
        Path(output), list(map(Path, places)), load_config(MergeOptions, None, overrides).source
    )
    print(f"{output}: {len(manifest.files)} files, {manifest.counts['documents']:,} documents")


def fetch(arguments: list[str]) -> None:
    """Copy a shard set to local disk."""
    from data_prep.shards.fetch import fetch

    if len(arguments) != 2:
        raise ConfigError(
            "fetch: expected the URL or folder of a shard set, and a folder, after it"
        )
    place, folder = arguments
    manifest = fetch(place, Path(folder))
    print(f"{folder}: {len(manifest.hashes)} files, whole")


def fertility(arguments: list[str]) -> None:
    """Tokens per word and character of a corpus, by its tokenizer and others."""
    from data_prep.tokenizer.fertility_report import report_fertility

    if not arguments:
        raise ConfigError("fertility: expected the output folder of a corpus after it")
    output, *folders = map(Path, arguments)
    report_fertility(output, folders)


def split(arguments: list[str]) -> None:
    """Split a shard set into several."""
    from data_prep.shards.split import parse_weights, split

    if len(arguments) != 4 or arguments[2] != "--parts":
        raise ConfigError("split: expected `split SHARD_SET FOLDER --parts train=98,validation=2`")
    folder, out, _, parts = arguments
    for name, manifest in split(Path(folder), Path(out), parse_weights(parts)).items():
        counts = manifest.counts
        print(f"{out}/{name}: {counts['documents']:,} documents, {counts['tokens']:,} tokens")


def convert(arguments: list[str]) -> None:
    """A shard set to another trainer's format, or from one."""
    from data_prep.convert.convert import convert

    if len(arguments) < 2 or any(word.startswith("--") for word in arguments[:2]):
        raise ConfigError("convert: expected an input and a folder that does not exist after it")
    place, out, *options = arguments
    print(convert(Path(place), Path(out), options))


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


def _places(command: str, arguments: list[str]) -> tuple[list[str], list[str]]:
    """The shard sets after a command, one at least, and the options after them."""
    first = next((k for k, word in enumerate(arguments) if word.startswith("--")), len(arguments))
    if not first:
        raise ConfigError(f"{command}: expected the folder of a shard set after it")
    return arguments[:first], arguments[first:]


def _config(command: str, arguments: list[str]) -> CorpusConfig:
    if not arguments:
        raise ConfigError(f"{command}: expected a config after it; see python -m data_prep --help")
    path, *overrides = arguments
    return load_config(CorpusConfig, Path(path), list(map(_spelled_out, overrides)))


def _spelled_out(argument: str) -> str:
    """--since, which deserves a short name, as the key that it sets."""
    flag, equals, value = argument.partition("=")
    return f"--curate.since{equals}{value}" if flag == "--since" else argument
