"""Text in, shards out, stage by stage.

python -m data_prep STAGE CONFIG [--section.key value ...] [--since OUTPUT] [--allow-failed]
    STAGE: download, extract, curate, tokenizer, pack, instruct, or all (download to pack)
    --since: keep only what is new or changed since the corpus in that output folder
    --allow-failed: go on without what failed; manifests name what is missing
python -m data_prep status CONFIG | OUTPUT        how far each stage is
python -m data_prep sources check CONFIG          what moved at the places that sources come from
python -m data_prep card OUTPUT                   writes what the corpus holds to CARD.md; pack and all do too
python -m data_prep fertility OUTPUT [TOKENIZER ...]      tokens a word, by source, language and tokenizer

Shard sets: inputs first, then OUT, a folder that does not exist (fetch: or that it began), then options.
python -m data_prep verify SHARD_SET ... [--workers N]                 every checksum, row and document
python -m data_prep inspect SHARD_SET [ROWS] [--row FIRST] [--document ID]   rows as text, with their documents
python -m data_prep stats SHARD_SET ... [--json true]                  documents, tokens, fill, licences, bytes on disk
python -m data_prep fetch SHARD_SET OUT                                copies a set (s3://, gs://, https://) to local disk
python -m data_prep merge SHARD_SET SHARD_SET ... OUT [--source NAME]  one set of several, by links
python -m data_prep split SHARD_SET OUT --parts train=98,validation=2  by article, packed anew
python -m data_prep convert SHARD_SET OUT --to megatron|mds
python -m data_prep convert INPUT OUT --from megatron|mds --tokenizer FOLDER [--source NAME] [--split NAME]
    [--policy best_fit|concat] [--sequence_length N] [--window N] [--row_group N] [--begin_token true]
"""

import difflib
import signal
import sys
from collections.abc import Sequence

from data_prep import commands
from data_prep.errors import ConfigError, ProjectError, exit_code, explain

ONCE = ("inspect", "stats", "verify", "merge", "split", "convert", "fertility")  # begin anew


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code: 0, 1 for broken data, 2 for wrong arguments or config."""
    if not arguments or "--help" in arguments or "-h" in arguments:
        print(__doc__)
        return 0 if arguments else 2
    if arguments[0] in ONCE:  # a batch system's signal removes what is half written, as Ctrl-C does
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _run(arguments[0], list(arguments[1:]))
    except (ProjectError, OSError) as error:
        message = explain(error)
        if message is None:
            raise
        print(message, file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        on = "" if arguments[0] in ONCE else "; the same command goes on from here"
        print(f"stopped{on}", file=sys.stderr)
        return 130  # 128 + SIGINT, as shells say it
    return 0


def _run(name: str, arguments: list[str]) -> None:
    if name in commands.COMMANDS:
        commands.COMMANDS[name](arguments)
        return
    from data_prep.pipeline import NAMES

    if name not in NAMES:
        known = [*NAMES, *commands.COMMANDS]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
        raise ConfigError(f"{name}: unknown command; {hint}")
    commands.stage(name, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
