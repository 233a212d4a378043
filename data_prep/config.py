"""The config of a corpus: configs/corpus/*.yaml."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from data_prep.config_file import Section
from data_prep.source_config import ALL_LICENCES, LicenceGroup, Source, SourceName

Fraction = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0, le=1)]


class NearDuplicates(Section):
    """MinHash with locality-sensitive hashing; the defaults are datatrove's (and FineWeb's)."""

    words: int = Field(5, ge=1)  # of a shingle
    buckets: int = Field(14, ge=1)
    hashes_per_bucket: int = Field(8, ge=1)


class Benchmark(Section):
    """Questions that must not be trained on: JSON, JSON lines, Parquet or CSV."""

    name: str
    path: Path
    fields: list[str] = Field(
        min_length=1
    )  # that hold text, as "question"; dots lead into nested ones


class Decontaminate(Section):
    """Documents that share a run of words with a benchmark are dropped."""

    benchmarks: list[Benchmark] = Field(min_length=1)
    words: int = Field(13, ge=3)  # of a run, normalised (GPT-3, appendix C)


class Quality(Section):
    """Weights by metadata; a document stays with the product of those that apply as its probability."""

    publication_types: dict[str, Weight] = {}
    journals: dict[str, Weight] = {}
    half_life_years: float | None = Field(None, gt=0)  # the weight of age: 1/2 after so many years
    reference_year: int | None = None  # in which age is 0; later years are of age 0 too

    @model_validator(mode="after")
    def _age_has_a_beginning(self) -> Self:
        if (self.half_life_years is None) != (self.reference_year is None):
            raise ValueError("half_life_years and reference_year go together: give both or neither")
        return self


class Curate(Section):
    """Which documents stay."""

    languages: list[str] = ["eng"]  # ISO 639-2/B, as PubMed writes them; empty: all
    require_abstract: bool = True  # drop PubMed citations that are a title alone
    min_characters: int = Field(100, ge=0)
    licences: list[LicenceGroup] = ALL_LICENCES
    drop_retracted: bool = True
    drop_notices: bool = True  # retraction notices, corrections, expressions of concern
    same_title: bool = True  # a citation whose full text is known by its title alone is a duplicate
    near_duplicates: NearDuplicates | None = None
    decontaminate: Decontaminate | None = None
    quality: Quality | None = None
    since: Path | None = None  # output of an earlier corpus: only what is new or changed stays
    validation_fraction: Fraction = 0.01


class TrainTokenizer(Section):
    """A tokenizer trained on the corpus.

    The defaults of `byte_level` are BioMedLM's (its tokenize/train_bpe.py), those of `sentencepiece`
    LLaMA's (the trainer_spec in its tokenizer.model).
    """

    kind: Literal["byte_level", "sentencepiece"] = "byte_level"
    vocab_size: int = Field(28_896, ge=257)  # sentencepiece: 32,000
    min_frequency: int = Field(2, ge=1)  # byte_level
    # sentencepiece: 1,000,000,000, because it holds them all in memory
    sample_bytes: int = Field(10_000_000_000, ge=1)
    character_coverage: float = Field(0.99995, gt=0, le=1)  # sentencepiece; the rest are bytes

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_kind(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("kind") == "sentencepiece":
            return {"vocab_size": 32_000, "sample_bytes": 1_000_000_000} | values
        return values


class ExtendTokenizer(Section):
    """A SentencePiece BPE with pieces added: of another model, learnt on the corpus, or both."""

    path: Path  # of the base: its folder, or its tokenizer.model
    new_pieces: int = Field(0, ge=0)  # learnt on the corpus
    pieces: Path | None = None  # a SentencePiece model whose pieces are added
    min_frequency: int = Field(2, ge=1)  # of learnt characters and merges
    # The rest stay bytes; sentencepiece's advice for Chinese and Japanese (its README).
    character_coverage: float = Field(0.9995, gt=0, le=1)
    sample_bytes: int = Field(1_000_000_000, ge=1)  # of the corpus; its words are held in memory

    @model_validator(mode="after")
    def _adds_something(self) -> Self:
        if not self.new_pieces and self.pieces is None:
            raise ValueError("give new_pieces (how many to learn), pieces (another model), or both")
        return self


class Tokenizer(Section):
    """A tokenizer to train, one to extend, or the folder of one that is taken as it is."""

    train: TrainTokenizer | None = None
    extend: ExtendTokenizer | None = None
    path: Path | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if sum(origin is not None for origin in (self.train, self.extend, self.path)) != 1:
            raise ValueError(
                "give one of train (settings), extend (settings) and path (a tokenizer's folder)"
            )
        return self


class Pack(Section):
    """How documents fill sequences; see docs/shards.md."""

    policy: Literal["best_fit", "concat", "per_document"] = "best_fit"
    epochs: int = Field(1, ge=1)  # per_document: windows taken of each document, one an epoch
    seed: int = Field(0, ge=0)  # of windows and of shuffling
    shuffle_documents: int = Field(0, ge=0)  # shuffled into each other before packing; 0: none
    min_tokens: int = Field(1, ge=1)  # documents with fewer are left out
    sequence_length: int = Field(1024, ge=8)  # tokens
    window: int = Field(4096, ge=1)  # documents that best_fit sees at once
    row_group: int = Field(256, ge=64, le=256)  # sequences
    begin_token: bool = False  # whether documents begin with the tokenizer's begin token

    @model_validator(mode="after")
    def _epochs_have_windows(self) -> Self:
        if self.epochs > 1 and self.policy != "per_document":
            raise ValueError(
                f"epochs: {self.epochs} needs policy: per_document; {self.policy} packs every token once"
            )
        return self


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


class Slurm(Section):
    """How datatrove's jobs are submitted."""

    partition: str | None = None
    time: str = "24:00:00"
    mem_per_cpu_gb: int = Field(2, ge=1)
    jobs_at_once: int | None = Field(None, ge=1)
    sbatch: dict[str, str] = {}  # further options, as {account: lab}


class Ray(Section):
    address: str | None = None  # of a running cluster, as "auto"; none: one on this machine


class CorpusConfig(Section):
    """Everything `python -m data_prep` needs to know."""

    output: Path  # folder for everything that the stages write
    raw: Path | None = (
        None  # folder for downloads and extracted documents, where corpora share them
    )
    executor: Literal["local", "slurm", "ray"] = "local"
    workers: int = Field(1, ge=1)  # processes, or jobs at once; never changes a byte of the output
    slurm: Slurm = Slurm()
    ray: Ray = Ray()
    sources: dict[SourceName, Source] = {}
    curate: Curate = Curate()
    tokenizer: Tokenizer = Tokenizer(train=TrainTokenizer())
    pack: Pack = Pack()
    instruct: Instruct | None = None

    @property
    def downloads(self) -> Path:
        """Where the stage download keeps what it knows and fetches."""
        return (self.raw or self.output) / "download"

    @property
    def extracted(self) -> Path:
        """Where the stage extract writes."""
        return (self.raw or self.output) / "extract"
