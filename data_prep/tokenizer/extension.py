"""What an extended tokenizer says of its base: extension.json, beside the tokenizer wherever it goes.

    {"base_size": 32000, "base_fingerprint": "…", "pieces": [[234, 178, 133], …]}

`pieces[k]` are the ids that the text of id `base_size + k` had under the base; a model of the base goes on
with the extended vocabulary from the means of their embeddings.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from data_prep.errors import DataError
from data_prep.files import write_json

EXTENSION_FILE = "extension.json"


@dataclass(frozen=True)
class Extension:
    """The base's size and fingerprint, and the old ids of each new id's text."""

    base_size: int
    base_fingerprint: str
    pieces: list[list[int]]

    @property
    def size(self) -> int:
        """Entries of the extended vocabulary."""
        return self.base_size + len(self.pieces)


def write_extension(folder: Path, extension: Extension) -> None:
    write_json(folder / EXTENSION_FILE, asdict(extension))


def parse_extension(content: bytes, where: object) -> Extension:
    """What extension.json says; raises DataError naming `where` it lies if it is broken."""
    try:
        values = json.loads(content)
        extension = Extension(values["base_size"], values["base_fingerprint"], values["pieces"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{where}: not readable ({type(error).__name__}: {error}); build the tokenizer again"
        ) from error
    size = extension.base_size
    if not all(ids and all(0 <= index < size for index in ids) for ids in extension.pieces):
        raise DataError(
            f"{where}: pieces: expected ids below base_size ({size}) for every new id; build the tokenizer "
            "again"
        )
    return extension
