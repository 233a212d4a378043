"""Encoded documents, and shard sets made of them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers.implementations import ByteLevelBPETokenizer

from data_prep.config import CorpusConfig
from data_prep.config_file import validate
from data_prep.shards.assemble import build_shard_set
from data_prep.shards.manifest import Manifest
from data_prep.shards.schema import ShardFormat
from data_prep.shards.writer import EncodedDocument
from data_prep.tokenizer.encode import load_encoder
from tests.data_prep.shards.rewritten import documents

TEXT = "The rate of acute renal failure was 12.5% (95% CI 10 to 15) in the treated patients. "


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a byte-level BPE of 300 ids, the end token last."""
    folder = tmp_path_factory.mktemp("tokenizer")
    whole = ByteLevelBPETokenizer()
    whole.train_from_iterator(iter([TEXT] * 3), vocab_size=299, show_progress=False)
    whole.add_special_tokens(["<|endoftext|>"])
    whole.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def fingerprint(tokenizer: Path) -> str:
    return load_encoder(tokenizer).fingerprint


@pytest.fixture
def form(fingerprint: str) -> Callable[..., ShardFormat]:
    """A shard format with what a test wants different."""

    def make(**changes: object) -> ShardFormat:
        values: dict[str, object] = {
            "sequence_length": 32,
            "row_group": 8,
            "policy": "best_fit",
            "vocabulary_size": 300,
            "tokenizer_fingerprint": fingerprint,
            "begin_token": False,
            "begin_id": 299,
            "end_id": 299,
            "pad_id": 299,
        }
        return ShardFormat.model_validate(values | changes)

    return make


@pytest.fixture
def make_set(tokenizer: Path, form: Callable[..., ShardFormat]) -> Callable[..., Manifest]:
    def make(
        folder: Path, documents: Sequence[EncodedDocument], window: int = 16, **changes
    ) -> Manifest:  # type: ignore[no-untyped-def]
        folder.mkdir(parents=True)
        manifest = build_shard_set(
            folder,
            documents,
            form(**changes),
            window=window,
            source="words",
            split="train",
            tokenizer=tokenizer,
            settings={"a": 1},
            inputs={"words/one": "hash"},
        )
        assert manifest is not None
        return manifest

    return make


@pytest.fixture
def config(tokenizer: Path) -> Callable[..., CorpusConfig]:
    def make(output: Path, **pack: Any) -> CorpusConfig:
        source = {"format": "text", "path": "somewhere"}
        values = {
            "output": str(output),
            "sources": {"words": source, "other": source},
            "tokenizer": {"path": str(tokenizer)},
            "pack": {"sequence_length": 64, "row_group": 64, "window": 8} | pack,
        }
        return validate(CorpusConfig, values, "test")

    return make


@pytest.fixture
def made(tmp_path: Path, make_set: Callable[..., Manifest]) -> Path:
    """A good set, packed by best fit, of which one thing is then changed."""
    make_set(tmp_path / "set", documents())
    return tmp_path / "set"
