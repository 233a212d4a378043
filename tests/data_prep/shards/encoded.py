"""Random encoded documents, and documents put together again from shards."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from data_prep.shards.writer import EncodedDocument


def encoded_documents(
    number: int, seed: int = 0, longest: int = 100, masked: bool = False, vocabulary: int = 299
) -> list[EncodedDocument]:
    """Documents of 1 to `longest` random tokens, ids in no order."""
    random = np.random.default_rng(seed)
    documents = []
    for index in range(number):
        length = int(random.integers(1, longest + 1))
        tokens = random.integers(0, vocabulary, length).astype(np.uint32)
        mask = random.random(length) < 0.5 if masked else None
        name = f"pmid:{(index * 7919) % 10007}"
        metadata = {"pmid": index, "year": 2000 + index % 20, "journal": None, "licence": "cc0"}
        documents.append(EncodedDocument(name, tokens, "words", length * 4, metadata, mask))
    return documents


def rebuilt(shards: Sequence[Path], column: str = "tokens") -> dict[str, list]:
    """Documents put together again from what pandas reads, one place after the other."""
    found: dict[str, dict[int, object]] = {}
    for shard in shards:
        for _, row in pd.read_parquet(shard).iterrows():
            place = 0
            for piece in row["documents"]:
                contents = found.setdefault(piece["id"], {})
                for within in range(piece["offset"], piece["offset"] + piece["length"]):
                    assert within not in contents, "a token stands in two places"
                    contents[within] = row[column][place]
                    place += 1
    for contents in found.values():
        assert sorted(contents) == list(range(len(contents))), "a token is missing"
    return {name: [contents[k] for k in sorted(contents)] for name, contents in found.items()}
