"""docs/reliability.md from the results of `make test-long`: what was tried, when, on which commit.

python -m tests.reliability_page RESULTS.xml [MORE.xml ...] > docs/reliability.md
"""

import platform
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

HEAD = """# Reliability

What `make test-long` tries, beyond the tests of `make test`: real runs on two CPU ranks that are killed, starved, damaged,
moved to other layouts and compared with plain PyTorch. This page is its last result.
"""


def page(results: Sequence[Path]) -> str:
    """Markdown: the run's facts, then a table for each test module."""
    suites = [next(ElementTree.parse(path).getroot().iter("testsuite")) for path in results]
    modules: dict[str, list[str]] = defaultdict(list)
    for case in (case for suite in suites for case in suite.iter("testcase")):
        row = f"| {_sentence(case.get('name', ''))} | {_outcome(case)} | {float(case.get('time', 0)):.0f} |"
        modules[case.get("classname", "").rpartition("tests.")[2]].append(row)
    tables = [
        "\n".join(
            [f"## {module}\n", "| promise | result | seconds |", "| --- | --- | --- |", *rows]
        )
        for module, rows in sorted(modules.items())
    ]
    return "\n".join([HEAD, _facts(suites), "", "\n\n".join(tables)]) + "\n"


def _facts(suites: Sequence[ElementTree.Element]) -> str:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()

    def total(key: str) -> float:
        return sum(float(suite.get(key, 0)) for suite in suites)

    failed, skipped = total("failures") + total("errors"), total("skipped")
    passed = total("tests") - failed - skipped
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("torch", "deepspeed", "transformers")
    )
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, commit {commit}, Python {platform.python_version()}, {versions}: "
        f"{passed:.0f} passed, {failed:.0f} failed, {skipped:.0f} skipped, in {total('time') / 60:.0f} minutes."
    )


def _sentence(name: str) -> str:
    return name.removeprefix("test_").replace("_", " ").replace("|", "/")


def _outcome(case: ElementTree.Element) -> str:
    skipped = case.find("skipped")
    if skipped is not None:
        reason = " ".join((skipped.get("message") or "").split()).replace("|", "/")
        return f"skipped: {reason}"
    failed = case.find("failure") is not None or case.find("error") is not None
    return "**failed**" if failed else "passed"


if __name__ == "__main__":
    sys.stdout.write(page([Path(name) for name in sys.argv[1:]]))
