"""Copies of a run's checkpoints in remote storage, made by a process of their own while training goes on.

    python -m pretrain.checkpoints.copy RUN/checkpoints URL KEEP KEEP_EVERY

URL/step-00000200/ has the same files; the manifest is copied last and removed first, so what has one is
whole. A copy that fails is a warning, and is made up for after the next save. Access is what each file
system's own variables say (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, FSSPEC_…). No torch here.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from data_prep.download.remote_files import file_system_options
from data_prep.errors import ConfigError, DataError
from data_prep.lock import FolderLock
from pretrain.checkpoints.names import MANIFEST, name_of, newest_first, saved_steps, to_remove

LOCK_WAIT_S = 24 * 3600.0  # the copier of a killed run may still be at it


class Remote:
    """Checkpoints below a URL. Raises ConfigError for one that nothing here can write."""

    def __init__(self, url: str):
        from fsspec.core import url_to_fs

        self.url = url.rstrip("/")
        scheme = urlsplit(url).scheme
        if scheme in ("", "http", "https", "memory"):
            raise ConfigError(
                f"checkpoint.copy_to: {url}: expected a URL that can be written, such as s3://BUCKET/RUN"
            )
        own: dict[str, Any] = {"auto_mkdir": True} if scheme == "file" else {}
        try:
            options = file_system_options(scheme) | own
            self._system, path = url_to_fs(self.url, skip_instance_cache=True, **options)
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"checkpoint.copy_to: {url}: {scheme}:// cannot be written here ({error})"
            ) from error
        self._path = path.rstrip("/")

    def _place(self, step: int, name: str = "") -> str:
        return f"{self._path}/{name_of(step)}/{name}".rstrip("/")

    def steps(self) -> list[int]:
        """Steps of the whole copies, newest first. Raises DataError where the place cannot be listed."""
        try:
            self._system.invalidate_cache()
            places = self._system.ls(self._path, detail=False)
            found = newest_first(place.rstrip("/").rpartition("/")[2] for place in places)
            return [step for step in found if self._system.exists(self._place(step, MANIFEST))]
        except FileNotFoundError:
            return []
        except Exception as error:  # each file system has errors of its own
            raise DataError(
                f"checkpoint.copy_to: {self.url} cannot be listed ({_reason(error)}); check the address and "
                "the credentials, or leave copy_to out"
            ) from error

    def check_writable(self) -> None:
        """Raise DataError where nothing can be written there: at the start, not after the first hours."""
        mark = f"{self._path}/.writable"
        try:
            self._system.pipe_file(mark, b"")
            self._system.rm_file(mark)
        except Exception as error:  # each file system has errors of its own
            raise DataError(
                f"checkpoint.copy_to: {self.url} cannot be written ({_reason(error)}); check the address and "
                "the credentials, or leave copy_to out"
            ) from error

    def names(self, step: int) -> list[str]:
        """The files of a copy, its manifest among them."""
        base = self._place(step)
        return sorted(place.removeprefix(f"{base}/") for place in self._system.find(base))

    def size(self, step: int) -> int:
        """Bytes of a copy."""
        return int(self._system.du(self._place(step)))

    def manifest(self, step: int) -> bytes:
        return bytes(self._system.cat_file(self._place(step, MANIFEST)))

    def fetch(self, step: int, name: str, folder: Path) -> None:
        """Bring one file into `folder`; raises DataError."""
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            self._system.get_file(self._place(step, name), str(folder / name))
        except Exception as error:  # each file system has errors of its own
            raise DataError(
                f"{self.url}/{name_of(step)}/{name}: cannot be fetched ({_reason(error)}); check the network "
                "and start again"
            ) from error

    def put(self, step: int, folder: Path) -> None:
        """Copy the checkpoint in `folder`, its manifest last."""
        manifest = (folder / MANIFEST).read_bytes()
        self.remove_manifest(step)
        for name in [*sorted(json.loads(manifest)), MANIFEST]:
            self._system.put_file(str(folder / name), self._place(step, name))

    def remove_manifest(self, step: int) -> None:
        if self._system.exists(self._place(step, MANIFEST)):
            self._system.rm_file(self._place(step, MANIFEST))

    def remove(self, step: int) -> None:
        self.remove_manifest(step)
        self._system.rm(self._place(step), recursive=True)


def copy(folder: Path, remote: Remote, keep: int, keep_every: int | None) -> None:
    """Copy what is kept here and not yet there, newest first, and remove there what is no longer kept."""
    there, here = remote.steps(), saved_steps(folder)
    dropped = to_remove({*here, *there}, keep, keep_every)
    for step in here:
        if step in dropped:
            continue
        local = folder / name_of(step)
        try:
            # After a roll-back a step is done, and saved, again.
            if step not in there or remote.manifest(step) != (local / MANIFEST).read_bytes():
                remote.put(step, local)
        except FileNotFoundError:
            if local.exists():
                raise
            # It has been removed here meanwhile: a newer one is there.
    for step in dropped:
        if step in there:
            remote.remove(step)


class CheckpointCopy:
    """The process that copies; for rank 0 alone. What it returns is a warning, or None.

    Raises ConfigError or DataError where the place cannot be written.
    """

    def __init__(self, folder: Path, url: str, keep: int, keep_every: int | None):
        Remote(url).check_writable()
        self._command = [sys.executable, "-m", "pretrain.checkpoints.copy"]
        self._command += [str(folder), url, str(keep), str(keep_every or 0)]
        self._process: subprocess.Popen[str] | None = None
        self._wanted = False

    def start(self) -> str | None:
        """Begin to copy what has been saved, or leave it to the next call while a copy still runs."""
        self._wanted = True
        if self._process and self._process.poll() is None:
            return None
        warning = self._outcome()
        self._begin()
        return warning

    def _begin(self) -> None:
        root = Path(__file__).resolve().parents[2]
        # A session of its own: what ends the run does not cut its last copy short.
        self._process = subprocess.Popen(
            self._command, cwd=root, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._wanted = False

    def leave(self) -> None:
        """See to it that everything saved so far is copied, by processes that outlive this one."""
        if self._wanted:
            self._begin()  # it waits for the one that runs

    def finish(self) -> str | None:
        """Wait until everything saved so far is copied, or has failed to be."""
        warning = self._outcome()
        if self._wanted or warning:
            self.start()
            warning = self._outcome()
        return warning

    def _outcome(self) -> str | None:
        """Wait for the process, if there is one, and take its message."""
        if self._process is None:
            return None
        _, told = self._process.communicate()
        failed, self._process = self._process.returncode != 0, None
        last = (told.strip() or "no message").splitlines()[-1]
        return f"{last}; it is tried again with the next checkpoint" if failed else None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def main(arguments: list[str]) -> int:
    folder, url, keep, keep_every = arguments
    lock = FolderLock(Path(folder), "checkpoint.copy_to")
    try:
        lock.acquire(LOCK_WAIT_S)
        copy(Path(folder), Remote(url), int(keep), int(keep_every) or None)
    except (ConfigError, DataError) as error:
        print(error, file=sys.stderr)
        return 1
    except Exception as error:  # each file system has errors of its own
        print(f"checkpoint.copy_to: {url}: copying failed ({_reason(error)})", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
