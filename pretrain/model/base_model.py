"""The folder of a model to go on with: from the hub if need be, known by a hash of its weights."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from data_prep.errors import ConfigError
from data_prep.files import digest, sha256_file

# The hub's cache names what it stores in large files by their sha256, and links to it.
BLOB = re.compile(r"[0-9a-f]{64}")


def local_folder(path: str, revision: str | None = None) -> Path:
    """The folder of a model: the path itself, or the download of a hub name.

    May be called by many processes at once, of one node or several: the hub's client lets one of them
    download a file while the others wait for it, however long that takes.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or path.startswith(".") or path.count("/") > 1:
        raise ConfigError(f"model.path: found no folder {path}; give a folder or a hub name")
    from huggingface_hub import snapshot_download

    others = ["*.h5", "*.msgpack", "*.onnx*", "*.gguf", "*.pth", "original/*"]
    try:
        found = Path(snapshot_download(path, revision=revision, ignore_patterns=["*.bin", *others]))
        if not any(found.glob("*.safetensors")):  # an old model, such as BioMedLM
            snapshot_download(path, revision=revision, ignore_patterns=others)
        return found
    except Exception as error:  # the hub client has a dozen classes for "not there"
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"model.path: {path} is neither a local folder nor to be had from the hub: {reason}"
        ) from error


def file_hashes(folder: Path, part: int = 0, parts: int = 1) -> dict[str, str]:
    """sha256 by name of every `parts`-th file of a model folder's weights and config, from number `part`.

    So many processes hash a large model together, each for a short time; see `weights_hash`.
    """
    weights = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    if not weights or not (folder / "config.json").exists():
        raise ConfigError(
            f"model.path: {folder}: found no config.json with weights (*.safetensors); give a model's folder"
        )
    # By size, so that nobody gets many of the large ones.
    files = sorted([*weights, folder / "config.json"], key=lambda path: (path.stat().st_size, path))
    return {path.name: _sha256(path) for path in files[part::parts]}


def _sha256(path: Path) -> str:
    stored = path.resolve()
    if stored.parent.name == "blobs" and BLOB.fullmatch(stored.name):
        return stored.name
    return sha256_file(path)


def weights_hash(parts: Iterable[Mapping[str, str]]) -> str:
    """Hash of a model's weights and config, out of all parts of `file_hashes`; the folder's name is free."""
    return digest({name: hashed for part in parts for name, hashed in part.items()})
