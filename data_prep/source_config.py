"""The part of a corpus's config that says where text comes from and how it is read."""

from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from data_prep.config_file import Section
from data_prep.units import FAILURES

Format = Literal["pubmed", "jats", "pmc", "s2orc", "text", "html", "parquet", "csv"]
LicenceGroup = Literal["commercial", "noncommercial", "other", "nlm-terms"]
ORIGINS = ("path", "url", "bucket", "release", "dataset")
# The formats whose readers look at an option; given for another one it is a mistake.
_READ_BY: dict[str, tuple[Format, ...]] = {
    "fields": ("text", "parquet", "csv"),
    "jats": ("jats", "pmc"),
    "s2orc": ("s2orc",),
    "licence": ("jats", "pmc", "s2orc", "text", "html", "parquet", "csv"),
    "max_article_bytes": ("jats", "pmc", "s2orc", "text", "html", "parquet", "csv"),
    "coverage_tolerance": ("pubmed",),
}
ALL_LICENCES: list[LicenceGroup] = ["commercial", "noncommercial", "other", "nlm-terms"]


def _plain_name(name: str) -> str:
    # The name becomes a folder and the first part of unit names.
    if not name or not all(letter.isalnum() or letter in "-_" for letter in name):
        raise ValueError("a source's name is made of letters, digits, '-' and '_'")
    if name == FAILURES:
        raise ValueError(
            f"a source cannot be called {FAILURES!r}: stages keep their failures there"
        )
    return name


def _address(url: str) -> str:
    parts = urlsplit(url)
    if not parts.scheme or not (parts.netloc or parts.scheme == "file"):
        raise ValueError("expected an address such as https://host/folder/ or s3://bucket/key")
    return url


def _web_address(url: str) -> str:
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise ValueError("expected an address that begins with https:// or http:// and a host")
    return url


SourceName = Annotated[str, AfterValidator(_plain_name)]
Address = Annotated[str, AfterValidator(_address)]
WebAddress = Annotated[str, AfterValidator(_web_address)]


class Bucket(Section):
    """PMC's article datasets on an S3-compatible server (https://pmc.ncbi.nlm.nih.gov/tools/pmcaws/)."""

    name: str = "pmc-oa-opendata"
    endpoint: WebAddress | None = None  # of another S3-compatible server than Amazon's
    licences: list[LicenceGroup] = ["commercial", "noncommercial", "other"]  # fetched; no others
    manuscripts: bool = True  # author manuscripts
    ocr: bool = False  # articles of which there is only a scan that a machine read
    connections: int = Field(200, ge=1, le=2000)  # requests at once
    part_bytes: int = Field(256_000_000, ge=1000)  # of a compressed file of articles, about


class Release(Section):
    """A release of Semantic Scholar's datasets; the key is read from the variable S2_API_KEY."""

    name: str = "latest"
    dataset: str = "s2orc_v2"
    endpoint: WebAddress = "https://api.semanticscholar.org/datasets/v1"


class Dataset(Section):
    """Documents streamed out of a dataset that the library `datasets` knows: a hub's name or a folder."""

    name: str
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    documents: int = Field(ge=1)  # how many to take, from the first on


class Fields(Section):
    """Which fields of a record (JSON lines, Parquet, CSV) hold what; dots lead into nested ones."""

    text: str = "text"
    id: str | None = "id"  # none, or absent from a record: the record's number
    title: str | None = None  # set before the text
    language: str | None = None
    licence: str | None = None
    year: str | None = None


class Jats(Section):
    """How articles in JATS become text."""

    citations: Literal["drop", "keep", "tokens"] = (
        "drop"  # tokens: [bib_ref]…[/bib_ref], as MEDITRON
    )
    tables: Literal["captions", "rows"] = "captions"  # rows: bodies too, a line a row
    acknowledgements: bool = False
    funding: bool = False


class S2orc(Section):
    """Which papers of S2ORC are taken, and how they become text."""

    require: Literal["pmc", "pmc-or-pubmed", "nothing"] = "pmc-or-pubmed"  # PMC-LLaMA's filter
    citations: Literal["drop", "keep", "tokens"] = "drop"


class Source(Section):
    """Where one kind of text comes from, and how its files are read."""

    format: Format
    path: Path | None = None  # local folder, searched recursively
    url: list[
        Address
    ] = []  # directory listings (https://…/) or files, in the order in which they apply
    bucket: Bucket | None = None  # format pmc
    release: Release | None = None  # format s2orc
    dataset: Dataset | None = None  # format text
    fields: Fields = Fields()  # formats text (JSON lines), parquet, csv
    jats: Jats = Jats()  # formats jats, pmc
    s2orc: S2orc = S2orc()
    language: str | None = (
        None  # ISO 639-2/B, of documents that do not say theirs; "detect": found out
    )
    licence: str | None = None  # of documents that do not say theirs, as "cc-by-4.0"
    max_article_bytes: int = Field(
        64_000_000, ge=1000
    )  # of a record; of XML lxml's tree takes 11 times that
    coverage_tolerance: float = Field(0.1, ge=0, le=1)  # see data_prep/extract/coverage.py

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        given = [name for name in ORIGINS if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                f"give one of {', '.join(ORIGINS)}; found {' and '.join(given) or 'none'}"
            )
        for origin, format in (("bucket", "pmc"), ("release", "s2orc"), ("dataset", "text")):
            if origin in given and self.format != format:
                raise ValueError(f"{origin} goes with format {format}, found {self.format}")
        return self

    @model_validator(mode="after")
    def _options_of_the_format(self) -> Self:
        for option, formats in _READ_BY.items():
            default = type(self).model_fields[option].default
            if self.format not in formats and getattr(self, option) != default:
                raise ValueError(
                    f"{option} is for format {' or '.join(formats)}, found {self.format}"
                )
        return self
