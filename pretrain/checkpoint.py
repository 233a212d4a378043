"""Checkpoints: whole or not at all, found again, and loaded on any number of ranks.

    RUN/checkpoints/step-00000200/   DeepSpeed's files, state.json, manifest.json (sizes and SHA-256)
    RUN/checkpoints/latest           the name of the newest one

DeepSpeed writes into a hidden folder; the manifest is written last and the folder renamed, so what
has the name is whole. Its default torch writer is used: the asynchronous ones cannot load ZeRO-3
state back under current torch.
"""

import os
import shutil
import subprocess
import sys
import time
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
from pretrain.distributed import Ranks

MANIFEST = "manifest.json"
STATE = "state.json"
# ZeRO-3 saves the weights in fp32 and AdamW's two moments (12 bytes a trained parameter) and a copy
# of the weights in training precision (4 bytes at most).
BYTES_PER_PARAMETER = 16


def name_of(step: int) -> str:
    return f"step-{step:08d}"


def saved_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in `folder` (RUN/checkpoints), newest first."""
    pattern = "step-" + "[0-9]" * 8
    names = [path.name for path in folder.glob(pattern) if (path / MANIFEST).exists()]
    return sorted((int(name.removeprefix("step-")) for name in names), reverse=True)


class Checkpoints:
    """The checkpoints of one run; every method is called by all ranks together."""

    def __init__(self, folder: Path, ranks: Ranks, keep: int):
        self.folder = folder
        self.ranks = ranks
        self.keep = keep

    def prepare(self) -> None:
        """Make the folder and remove what killed runs left half-written."""
        if self.ranks.first:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_partials(self.folder)
        distributed.barrier()

    def save(self, engine: Any, step: int, state: dict[str, Any], parameters: int) -> Path:
        """Write the checkpoint of `step`; `parameters`: how many are trained, for the space check."""
        self._check_space(parameters)
        final = self.folder / name_of(step)
        partial = self.folder / f".{final.name}.partial"
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
        except (OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            free = shutil.disk_usage(self.folder).free / 1e9
            raise ProjectError(
                f"checkpoint of step {step}: could not be written ({reason}; {free:.2f} GB free in "
                f"{self.folder}); earlier checkpoints are whole: free space and start again"
            ) from error
        distributed.barrier()
        self._complete(partial, final, state)
        return final

    def _complete(self, partial: Path, final: Path, state: dict[str, Any]) -> None:
        if self.ranks.first:
            write_json(partial / STATE, state)
        distributed.barrier()
        # One listing for all: a network file system may show another rank an older one.
        names = sorted(path.name for path in partial.iterdir()) if self.ranks.first else None
        share = distributed.from_first(names)[self.ranks.rank :: self.ranks.world]
        for name in share:
            fsync_file(partial / name)
        files = {
            name: {"bytes": (partial / name).stat().st_size, "sha256": sha256_file(partial / name)}
            for name in share
        }
        parts = distributed.gather(files)
        if self.ranks.first:
            write_json(
                partial / MANIFEST, {name: of for part in parts for name, of in part.items()}
            )
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            fsync_folder(self.folder)
            with write_atomically(self.folder / "latest") as pointer:
                pointer.write_text(final.name + "\n")
            for old in saved_steps(self.folder)[self.keep :]:
                shutil.rmtree(self.folder / name_of(old), ignore_errors=True)
        distributed.barrier()

    def _check_space(self, parameters: int) -> None:
        free = shutil.disk_usage(self.folder).free if self.ranks.first else 0
        free = distributed.from_first(free)
        needed = BYTES_PER_PARAMETER * parameters
        if free < needed:
            raise ProjectError(
                f"checkpoint: {self.folder} has {free / 1e9:.2f} GB free, a checkpoint may need "
                f"{needed / 1e9:.2f} GB; earlier checkpoints are whole: free space and start again"
            )

    def newest(self) -> tuple[Path | None, list[str]]:
        """The newest whole checkpoint, and a line for each damaged one, which is renamed damaged-step-…."""
        skipped: list[str] = []
        for step in distributed.from_first(saved_steps(self.folder)):
            path = self.folder / name_of(step)
            faults = self._faults(path)
            if not faults:
                return path, skipped
            skipped.append(f"{path} is damaged and is passed over: {faults[0]}")
            if self.ranks.first:
                aside = path.with_name(f"damaged-{path.name}")
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
            distributed.barrier()
        return None, skipped

    def _faults(self, path: Path) -> list[str]:
        faults: list[str] = []
        try:
            manifest = sorted(read_json(path / MANIFEST).items())
        except ValueError:
            manifest, faults = [], [f"{MANIFEST} is not readable"]
        for name, about in manifest[self.ranks.rank :: self.ranks.world]:
            file = path / name
            if not file.exists():
                faults.append(f"{name} is missing")
            elif file.stat().st_size != about["bytes"]:
                faults.append(f"{name} has {file.stat().st_size} bytes, not {about['bytes']}")
            elif sha256_file(file) != about["sha256"]:
                faults.append(f"{name} does not have the SHA-256 it was written with")
        return [fault for part in distributed.gather(faults) for fault in part]

    def as_universal(self, path: Path) -> Path:
        """The checkpoint in DeepSpeed's universal format, which any number of ranks can load."""
        output = self.folder / f".{path.name}.universal.partial"
        token = distributed.from_first(os.urandom(4).hex() if self.ranks.first else None)
        outcome = self.folder / f".{token}.outcome.json"
        if self.ranks.first:
            shutil.rmtree(output, ignore_errors=True)
            write_json(outcome, {"message": _convert(path, output)})
        # Not a collective: a large model takes longer to convert than a collective may take.
        while outcome.name not in os.listdir(self.folder):
            time.sleep(1)
        message = read_json(outcome)["message"]
        distributed.barrier()
        if self.ranks.first:
            outcome.unlink()
        if message:
            raise DataError(message)
        return output

    def load(self, engine: Any, path: Path, frozen: bool) -> None:
        """Load weights and optimizer from a checkpoint or its universal form.

        `frozen`: some weights are not in it, because they come from the base model.
        """
        loaded, _ = engine.load_checkpoint(
            str(path.parent), tag=path.name, load_module_strict=not frozen
        )
        if loaded is None:
            raise DataError(f"{path}: DeepSpeed did not load it; see its message above")
        distributed.barrier()
        if self.ranks.first and path.name.endswith(".universal.partial"):
            shutil.rmtree(path)


def read_state(path: Path) -> dict[str, Any]:
    """What `save` was given beside the engine: step, world size, hashes."""
    return read_json(path / STATE)


def _convert(path: Path, output: Path) -> str | None:
    """Run DeepSpeed's converter in a process of its own; an error message, or None."""
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal"]
    command += ["--input_folder", str(path), "--output_folder", str(output)]
    workers = str(os.cpu_count() or 1)
    command += ["--num_extract_workers", workers, "--num_merge_workers", workers]
    alone = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    environment = {key: value for key, value in os.environ.items() if key not in alone}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if run.returncode == 0:
        return None
    last = (run.stderr.strip() or run.stdout.strip() or "no message").splitlines()[-1]
    return f"{path}: cannot be converted for another number of ranks: {last}"
