"""Checkpoints: whole or not at all, found again, and loaded on any number of ranks and by any ZeRO stage.

    RUN/checkpoints/step-00000200/   DeepSpeed's files, state.json, manifest.json (sizes and SHA-256)
    RUN/checkpoints/latest           the name of the newest one, for people: it is not what is believed
    RUN/checkpoints/damaged-step-…   one that was passed over

DeepSpeed writes into a hidden folder; the manifest is written last and the folder renamed, so what
has the name is whole. Its default torch writer is used: the asynchronous ones cannot load ZeRO-3
state back under current torch.
"""

import shutil
from pathlib import Path
from typing import Any

from data_prep.errors import DataError, ProjectError
from data_prep.files import (
    fsync_file,
    fsync_folder,
    read_json,
    remove_partials,
    sha256_file,
    write_atomically,
    write_json,
)
from pretrain import distributed
from pretrain.checkpoints.copy import Remote
from pretrain.checkpoints.layout import as_saved_only, bytes_needed, check_loadable
from pretrain.checkpoints.names import MANIFEST as MANIFEST
from pretrain.checkpoints.names import STATE, named_steps, to_remove
from pretrain.checkpoints.names import name_of as name_of
from pretrain.checkpoints.names import saved_steps as saved_steps
from pretrain.checkpoints.reshard import restore
from pretrain.distributed import Ranks


def read_state(path: Path) -> dict[str, Any]:
    """What `save` was given beside the engine (step, world size, hashes), and the layout."""
    return read_json(path / STATE)


class Checkpoints:
    """The checkpoints of one run; every method is called by all ranks together.

    `layout`: of this start, by pretrain.checkpoints.layout.layout_of. `copy_to`: where copies of lost ones may be; they
    are made by pretrain.checkpoints.copy.CheckpointCopy.
    """

    def __init__(
        self,
        folder: Path,
        ranks: Ranks,
        layout: dict[str, Any],
        keep: int,
        keep_every: int | None = None,
        copy_to: str | None = None,
    ):
        self.folder = folder
        self.ranks = ranks
        self.layout = layout
        self.keep, self.keep_every = keep, keep_every
        self.copy_to = copy_to

    def prepare(self) -> None:
        """Make the folder and remove what killed runs left half-written or half-removed."""
        if self.ranks.first:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_partials(self.folder)
        distributed.barrier()

    # ---- saving ----------------------------------------------------------------------------

    def save(self, engine: Any, step: int, state: dict[str, Any], parameters: int) -> Path:
        """Write the checkpoint of `step`; `parameters`: how many are trained, for the space check."""
        told = "earlier checkpoints are whole, another may need"
        self._check_space(bytes_needed(parameters, self.layout), told)
        final = self.folder / name_of(step)
        partial = self._hidden(final, "partial")
        if self.ranks.first:
            shutil.rmtree(partial, ignore_errors=True)
        distributed.barrier()
        try:
            # Frozen weights come back from the base model, whose hash is in the state.
            engine.save_checkpoint(
                str(self.folder),
                tag=partial.name,
                save_latest=False,
                exclude_frozen_parameters=True,
            )
            distributed.barrier()
            self._complete(partial, final, state)
        except (OSError, RuntimeError) as error:
            if not _is_of_disk(error):
                raise
            reason = str(error).splitlines()[0]
            free = shutil.disk_usage(self.folder).free / 1e9
            shutil.rmtree(partial, ignore_errors=True)
            raise ProjectError(
                f"checkpoint of step {step}: could not be written ({reason}; {free:.2f} GB free in "
                f"{self.folder}); earlier checkpoints are whole: free space and start again"
            ) from error
        return final

    def _complete(self, partial: Path, final: Path, state: dict[str, Any]) -> None:
        if self.ranks.first:
            write_json(partial / STATE, state | {"layout": self.layout})
        distributed.barrier()
        # One listing for all: a network file system may show another rank an older one.
        names = _files_below(partial) if self.ranks.first else None
        share = distributed.from_first(names)[self.ranks.rank :: self.ranks.world]
        for name in share:
            fsync_file(partial / name)
        parts = distributed.gather({name: _described(partial / name) for name in share})
        if self.ranks.first:
            write_json(
                partial / MANIFEST, {name: of for part in parts for name, of in part.items()}
            )
            for inner in (*(path for path in partial.rglob("*") if path.is_dir()), partial):
                fsync_folder(inner)
            self._remove(final)  # a step that is done again, after a roll-back
            partial.rename(final)
            fsync_folder(self.folder)
            self._point_at(final)
            for old in to_remove(saved_steps(self.folder), self.keep, self.keep_every):
                self._remove(self.folder / name_of(old))
        distributed.barrier()

    def _hidden(self, path: Path, ending: str) -> Path:
        return self.folder / f".{path.name}.{ending}"

    def _remove(self, path: Path) -> None:
        """Remove a checkpoint: out of sight first, so that a kill leaves no half of it under its name."""
        aside = self._hidden(path, "removed.partial")
        shutil.rmtree(aside, ignore_errors=True)
        if path.exists():
            path.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)

    def _point_at(self, path: Path) -> None:
        with write_atomically(self.folder / "latest") as pointer:
            pointer.write_text(path.name + "\n")

    def _check_space(self, needed: int, told: str) -> None:
        free = shutil.disk_usage(self.folder).free if self.ranks.first else 0
        free = distributed.from_first(free)
        if free < needed:
            raise ProjectError(
                f"checkpoint: {self.folder} has {free / 1e9:.2f} GB free, {told} "
                f"{needed / 1e9:.2f} GB: free space and start again"
            )

    # ---- finding ---------------------------------------------------------------------------

    def newest(self) -> tuple[Path | None, list[str]]:
        """The newest whole checkpoint, and a line for each damaged one, which is renamed damaged-step-….

        Where no whole one is here, the newest copy is fetched. None where the run has not saved yet.
        Raises DataError where it has, and nothing whole is left: beginning anew would lose it silently.
        """
        said: list[str] = []
        for step in distributed.from_first(named_steps(self.folder)):
            path = self.folder / name_of(step)
            found = faults(path, self.ranks)
            if not found:
                if self.ranks.first:
                    self._point_at(path)
                return path, said
            said.append(f"{path} is damaged and is passed over: {found[0]}")
            if self.ranks.first:
                aside = path.with_name(f"damaged-{path.name}")
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
            distributed.barrier()
        if self.copy_to:
            fetched = self._fetch(Remote(self.copy_to), said)
            if fetched:
                return fetched, said
        self._refuse_to_begin_anew(said)
        return None, said

    def _fetch(self, remote: Remote, said: list[str]) -> Path | None:
        """The newest whole copy, brought here by all ranks together."""
        for step in distributed.from_first(remote.steps() if self.ranks.first else None):
            path = self.folder / name_of(step)
            partial = self._hidden(path, "fetched.partial")
            about = (remote.names(step), remote.size(step)) if self.ranks.first else None
            names, size = distributed.from_first(about)
            self._check_space(size, f"the copy of step {step} in {remote.url} needs")
            for name in names[self.ranks.rank :: self.ranks.world]:
                remote.fetch(step, name, partial)
            distributed.barrier()
            if found := faults(partial, self.ranks):
                said.append(f"{remote.url}/{path.name} is damaged and is passed over: {found[0]}")
                continue
            if self.ranks.first:
                partial.rename(path)
                fsync_folder(self.folder)
                self._point_at(path)
            distributed.barrier()
            said.append(f"{path.name} was fetched from {remote.url}: there was no whole one here")
            return path
        return None

    def _refuse_to_begin_anew(self, said: list[str]) -> None:
        left = sorted(path.name for path in self.folder.glob("damaged-step-*"))
        if (self.folder / "latest").exists():
            left.append("latest")
        if left := distributed.from_first(left):
            why = f" ({said[0]})" if said else ""
            raise DataError(
                f"{self.folder}: the run has saved, but no whole checkpoint is left{why}; put one back, or "
                f"remove {' and '.join(left)} there to begin anew"
            )

    # ---- loading ---------------------------------------------------------------------------

    def load(self, engine: Any, path: Path) -> None:
        """Give the engine weights, moments and counters of a checkpoint, of whatever layout.

        Also into an engine that has trained on (a roll-back), except where it `as_saved_only`. Frozen weights
        are left as they are. Raises ConfigError or DataError where it cannot be.
        """
        check_loadable(read_state(path).get("layout", {}), self.layout, str(path))
        if not as_saved_only(self.layout):
            restore(engine, path)
            return
        loaded, _ = engine.load_checkpoint(
            str(path.parent), tag=path.name, load_module_strict=False
        )
        if loaded is None:
            raise DataError(f"{path}: DeepSpeed did not load it; see its message above")
        distributed.barrier()


def faults(path: Path, ranks: Ranks) -> list[str]:
    """What is wrong with a checkpoint's files; each rank looks at its share of them."""
    found: list[str] = []
    manifest: list[tuple[str, dict[str, Any]]] = []
    try:
        manifest = sorted((name, about) for name, about in read_json(path / MANIFEST).items())
        if STATE not in dict(manifest):
            found.append(f"{MANIFEST} names no {STATE}")
    except FileNotFoundError:
        found.append(f"{MANIFEST} is missing")
    except OSError as error:
        found.append(f"{MANIFEST} cannot be read ({error.strerror})")
    except (ValueError, AttributeError, TypeError):
        found.append(f"{MANIFEST} is not readable")
    found += [
        fault for name, about in manifest[ranks.rank :: ranks.world]
        if (fault := _fault(path, name, about))
    ]  # fmt: skip
    return [fault for part in distributed.gather(found) for fault in part]


def _fault(folder: Path, name: str, about: Any) -> str | None:
    if not isinstance(about, dict) or about.keys() != {"bytes", "sha256"}:
        return f"{MANIFEST} says of {name}: {about!r}"
    try:
        size = (folder / name).stat().st_size
        if size != about["bytes"]:
            return f"{name} has {size} bytes, not {about['bytes']}"
        if sha256_file(folder / name) != about["sha256"]:
            return f"{name} does not have the SHA-256 it was written with"
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"
    return None


def _is_of_disk(error: Exception) -> bool:
    """Whether writing failed; torch's writer in C++ says so by a RuntimeError, as the process group does."""
    return isinstance(error, OSError) or "inline_container" in str(error)


def _described(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def _files_below(folder: Path) -> list[str]:
    """With NVMe, DeepSpeed makes folders in it."""
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
