"""docs/reliability.md from the results of `make test-long`: what was tried, when, on which commit.

python -m tests.reliability_page RESULTS.xml [MORE.xml ...] > docs/reliability.md

Of a test that stands in several files the latest result counts.
"""

import platform
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

HEAD = """# Reliability

What `make test-long` tries, beyond the tests of `make test`: real runs on two CPU ranks that are killed, starved, damaged,
moved to other layouts and compared with plain PyTorch. This page is its last result.
"""


@dataclass(frozen=True)
class Result:
    """The last result of one test."""

    module: str
    promise: str
    outcome: str
    seconds: float
    date: str
    commit: str


def page(results: Sequence[Path]) -> str:
    """Markdown: the facts of the runs, then a table for each test module."""
    modules: dict[str, list[Result]] = defaultdict(list)
    last = _last(results)
    for result in last:
        modules[result.module].append(result)
    tables = [
        "\n".join([f"## {module}\n", "| promise | result | seconds | commit |", "| --- | --- | --- | --- |"]
                  + [f"| {one.promise} | {one.outcome} | {one.seconds:.0f} | {one.commit} |" for one in rows])
        for module, rows in sorted(modules.items())
    ]  # fmt: skip
    return "\n".join([HEAD, _facts(last), "", "\n\n".join(tables)]) + "\n"


def _last(results: Sequence[Path]) -> list[Result]:
    suites = [next(ElementTree.parse(path).getroot().iter("testsuite")) for path in results]
    found: dict[tuple[str, str], Result] = {}
    for suite in sorted(suites, key=lambda suite: suite.get("timestamp", "")):
        date = suite.get("timestamp", "")[:10]
        commit = next(
            one.get("value", "") for one in suite.iter("property") if one.get("name") == "commit"
        )
        for case in suite.iter("testcase"):
            module, name = case.get("classname", ""), case.get("name", "")
            found[module, name] = Result(
                module.rpartition("tests.")[2],
                name.removeprefix("test_").replace("_", " ").replace("|", "/"),
                _outcome(case),
                float(case.get("time", 0)),
                date,
                commit,
            )
    return list(found.values())


def _facts(results: Sequence[Result]) -> str:
    counts = Counter(result.outcome.strip("*").partition(":")[0] for result in results)
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("torch", "deepspeed", "transformers")
    )
    dates = sorted({result.date for result in results})
    return (
        f"{' to '.join(dates)}, Python {platform.python_version()}, {versions}: {counts['passed']} passed, "
        f"{counts['failed']} failed, {counts['skipped']} skipped, "
        f"{sum(result.seconds for result in results) / 60:.0f} minutes in all."
    )


def _outcome(case: ElementTree.Element) -> str:
    skipped = case.find("skipped")
    if skipped is not None:
        reason = " ".join((skipped.get("message") or "").split()).replace("|", "/")
        return f"skipped: {reason}"
    failed = case.find("failure") is not None or case.find("error") is not None
    return "**failed**" if failed else "passed"


if __name__ == "__main__":
    sys.stdout.write(page([Path(name) for name in sys.argv[1:]]))
