"""The config of a corpus: configs/corpus/*.yaml."""

from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from data_prep.config_file import Section
from data_prep.units import FAILURES

Fraction = Annotated[float, Field(ge=0, lt=1)]
Format = Literal["pubmed", "jats", "text"]
LicenceGroup = Literal["commercial", "noncommercial", "other", "nlm-terms"]


def _plain_name(name: str) -> str:
    # The name becomes a folder and the first part of unit names.
    if not name or not all(letter.isalnum() or letter in "-_" for letter in name):
        raise ValueError("a source's name is made of letters, digits, '-' and '_'")
    if name == FAILURES:
        raise ValueError(
            f"a source cannot be called {FAILURES!r}: stages keep their failures there"
        )
    return name


def _web_address(url: str) -> str:
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise ValueError("expected an address that begins with https:// or http:// and a host")
    return url


SourceName = Annotated[str, AfterValidator(_plain_name)]
Address = Annotated[str, AfterValidator(_web_address)]


class Source(Section):
    """Where one kind of text comes from: a local folder, or directory listings over HTTP(S)."""

    format: Format
    path: Path | None = None  # local folder, searched recursively
    url: list[Address] = []  # directory listings, in the order in which their files apply

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.path is None) == (not self.url):
            raise ValueError("give either path (a local folder) or url (directory listings)")
        return self


class Curate(Section):
    """Which documents stay."""

    languages: list[str] = ["eng"]  # ISO 639-2/B, as PubMed writes them; empty: all
    require_abstract: bool = True  # drop PubMed citations that are a title alone
    min_characters: int = Field(100, ge=0)
    licences: list[LicenceGroup] = ["commercial", "noncommercial", "other", "nlm-terms"]
    drop_retracted: bool = True
    validation_fraction: Fraction = 0.01


class TrainTokenizer(Section):
    """A byte-level BPE trained on the corpus; the defaults are BioMedLM's (its tokenize/train_bpe.py)."""

    vocab_size: int = Field(28_896, ge=257)
    min_frequency: int = Field(2, ge=1)
    sample_bytes: int = Field(10_000_000_000, ge=1)


class Tokenizer(Section):
    """A tokenizer to train, or the folder of one that exists."""

    train: TrainTokenizer | None = None
    path: Path | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.train is None) == (self.path is None):
            raise ValueError("give either train (settings) or path (a tokenizer's folder)")
        return self


class Pack(Section):
    """How documents fill sequences; see docs/formats.md."""

    policy: Literal["best_fit", "concat"] = "best_fit"
    sequence_length: int = Field(1024, ge=8)  # tokens
    window: int = Field(4096, ge=1)  # documents that best_fit sees at once
    row_group: int = Field(256, ge=64, le=256)  # sequences
    begin_token: bool = False  # whether documents begin with the tokenizer's begin token


class InstructInput(Section):
    path: Path
    format: Literal["alpaca", "messages", "sharegpt"]


class Instruct(Section):
    """Instruction samples to be turned into shards with a loss mask."""

    inputs: list[InstructInput] = Field(min_length=1)
    output: Path
    tokenizer: Path | None = None  # folder; none: the tokenizer that the corpus has
    template: str | None = (
        None  # a name in data_prep/instruct/templates, a file; none: the tokenizer's
    )
    sequence_length: int = Field(1024, ge=8)  # tokens
    row_group: int = Field(256, ge=64, le=256)
    validation_fraction: Fraction = 0.05


class CorpusConfig(Section):
    """Everything `python -m data_prep` needs to know."""

    output: Path  # folder for everything that the stages write
    workers: int = Field(1, ge=1)  # processes; never changes a byte of the output
    sources: dict[SourceName, Source] = {}
    curate: Curate = Curate()
    tokenizer: Tokenizer = Tokenizer(train=TrainTokenizer())
    pack: Pack = Pack()
    instruct: Instruct | None = None
