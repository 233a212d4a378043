"""Name the documents in a step's batch, or the steps at which a run reads a document.

python launch/trace.py --run runs/demo/pretrain --step 120 [--json true]
python launch/trace.py --run runs/demo/pretrain --document pmid:10704411 [--json true]
"""

import sys
from pathlib import Path

# This folder's scripts must not shadow packages; the checkout must be importable without installing.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.command_line import run_command
from pretrain.tracing.config import TraceConfig


def main(config: TraceConfig) -> None:
    import orjson
    from rich.console import Console

    from pretrain.tracing.table import document_table, step_table
    from pretrain.tracing.trace import DocumentRow, Trace, TracedRow

    trace = Trace(config.run)
    rows: list[TracedRow] | list[DocumentRow]
    if config.step is not None:
        rows = found = trace.step(config.step)
        table = step_table(config.step, found)
    else:
        name = str(config.document)
        rows = parts = trace.document(name)
        table = document_table(name, trace.done, parts)
    if config.as_json:
        for row in rows:
            print(orjson.dumps(row).decode())
    else:
        Console().print(table)


if __name__ == "__main__":
    sys.exit(run_command("trace", TraceConfig, main, sys.argv[1:]))
