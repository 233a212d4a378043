"""What all tests share: where real data is, and that no test leaves a process behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A shell ignores SIGINT for what it starts in the background, and so would all processes of the tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["BIOMED_TESTS"] = str(os.getpid())  # every process that a test starts inherits it


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real PubMed, PMC and tokenizer files; the test is skipped where there is none."""
    folder = Path(os.environ.get("BIOMED_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set BIOMED_TEST_DATA to a folder that holds it")
    return folder


@pytest.fixture(scope="session")
def communication_op() -> None:
    """DeepSpeed's op is built, which takes half a minute the first time: no test's time limit counts it."""
    command = "from pretrain.engine.communication_op import load_communication_op as load; load()"
    environment = os.environ | {"DS_ACCELERATOR": "cpu"}
    subprocess.run([sys.executable, "-c", command], cwd=ROOT, env=environment, check=True)


@pytest.fixture(scope="session", autouse=True)
def commit(record_testsuite_property: Callable[[str, object], None]) -> None:
    """In the file of --junitxml: what was tested, for docs/reliability.md."""
    command = ["git", "describe", "--always", "--dirty"]
    described = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    record_testsuite_property("commit", described.stdout.strip() or "unknown")


@pytest.fixture(scope="module", autouse=True)
def no_process_stays() -> Iterator[None]:
    """Fails the module whose processes outlive it: they would slow down all that follows."""
    yield
    left = _marked(f"BIOMED_TESTS={os.getpid()}".encode())
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, f"still running at the end: {left}"


def _marked(mark: bytes) -> dict[int, str]:
    """Command by process id of the processes that inherited the mark, ours left out."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        # multiprocessing's own helpers end with the process that uses them.
        if mark in environment and "-c from multiprocessing." not in command:
            found[int(folder.name)] = command.strip()
    return found
