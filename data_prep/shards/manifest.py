"""`manifest.json`: what a shard set holds, from what, and the hashes that prove it.

Nothing in it depends on when, where or by how many workers the set was made.
"""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data_prep.errors import DataError
from data_prep.files import digest, write_json
from data_prep.shards.schema import FORMAT_VERSION, ShardFormat
from data_prep.shards.storage import Place, Storage, UnreadableError, storage_of

MANIFEST = "manifest.json"
DOCUMENTS_FILE = "documents.parquet"
INPUTS_FILE = "inputs.parquet"
TOKENIZER_FOLDER = "tokenizer"


class ShardFile(BaseModel):
    """One Parquet file of the set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[^/]+\.parquet$")  # in the set's folder, nowhere else
    bytes: int
    sha256: str
    footer_sha256: str  # of the footer, its length and the closing magic
    rows: int


class Manifest(ShardFormat):
    """A shard set's manifest: the fields of its format, and these."""

    source: str
    split: str
    files: list[ShardFile] = Field(min_length=1)  # in the order in which their rows are numbered
    counts: dict[str, int]  # see ShardCounts
    settings: dict[str, Any]  # those that determine the bytes
    documents_sha256: str
    inputs_sha256: str
    tokenizer: dict[str, str]  # file below tokenizer/: sha256
    missing: list[str]  # "stage/unit" of inputs that failed and are not in the set

    @property
    def form(self) -> ShardFormat:
        """The fields that stand in every shard as well."""
        return ShardFormat(**{name: getattr(self, name) for name in ShardFormat.model_fields})

    @cached_property
    def hash(self) -> str:
        """Hex SHA-256 of the content: equal sets have equal hashes, wherever they lie."""
        return digest({"format_version": FORMAT_VERSION} | self.model_dump(mode="json"))

    @property
    def hashes(self) -> dict[str, str]:
        """Hex SHA-256 of every file of the set but the manifest, by its name below the folder."""
        shards = {file.name: file.sha256 for file in self.files}
        lists = {DOCUMENTS_FILE: self.documents_sha256, INPUTS_FILE: self.inputs_sha256}
        tokenizer = {f"{TOKENIZER_FOLDER}/{name}": value for name, value in self.tokenizer.items()}
        return shards | lists | tokenizer

    def write(self, folder: Path) -> None:
        fields = {"format_version": FORMAT_VERSION} | self.model_dump(mode="json")
        write_json(folder / MANIFEST, fields | {"hash": self.hash})

    @classmethod
    def read(cls, place: Place | Storage) -> Self:
        """The manifest of the set at `place`; raises DataError where it is missing, changed or of another version."""
        storage = storage_of(place)
        path = storage.address(MANIFEST)
        fields = _fields(path, storage)
        version = fields.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise DataError(
                f"{path}: format_version is {version!r}, this program reads {FORMAT_VERSION}; "
                "build the set again with this version, or use the one that wrote it"
            )
        written = fields.pop("hash", None)
        try:
            manifest = cls.model_validate(fields)
        except ValidationError as error:
            fault = error.errors()[0]
            place = ".".join(str(part) for part in fault["loc"])
            raise DataError(f"{path}: {place}: {fault['msg']}; build the set again") from error
        if manifest.hash != written:
            raise DataError(
                f"{path}: its content hashes to {manifest.hash}, but says {written}; "
                "it was changed by hand: restore it or build the set again"
            )
        return manifest


def _fields(path: Place, storage: Storage) -> dict[str, Any]:
    try:
        fields = json.loads(storage.content(MANIFEST))
    except UnreadableError as error:
        raise DataError(f"{path}: {error.reason}; expected the folder of a shard set") from error
    except ValueError as error:
        raise DataError(f"{path}: not readable as JSON; build the set again") from error
    if not isinstance(fields, Mapping):
        raise DataError(f"{path}: expected an object, found a {type(fields).__name__}")
    return dict(fields)
