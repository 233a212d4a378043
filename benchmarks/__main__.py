"""Every comparison, on text made from the bundled corpus; prints Markdown for docs/benchmarks.md.

python -m benchmarks [--pubmed PUBMED.xml.gz] [--jats FOLDER] [--tokenizer FOLDER]     real data instead
"""

import argparse
import gzip
import tempfile
from pathlib import Path

from benchmarks.measure import Contender, compare
from data_prep.config import CorpusConfig, TrainTokenizer
from data_prep.config import Tokenizer as TokenizerSettings
from data_prep.curate.identity import IdentifyStage
from data_prep.curate.stage import CurateStage
from data_prep.demo_corpus import CORPUS
from data_prep.documents import read_documents
from data_prep.download.stage import download
from data_prep.extract.stage import ExtractStage
from data_prep.run.executor import run_stage
from data_prep.tokenizer.train import TokenizerStage

COPIES = 300  # of the bundled baseline file: some 100 MB of XML
FILES = 4  # of equal size, for one worker against two
OURS = "biomed-pretrain"


def main(pubmed: Path | None, jats: Path, tokenizer: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        source = pubmed or _multiplied(home / "source", 0)
        with gzip.open(source) as stream:
            megabytes = sum(len(chunk) for chunk in iter(lambda: stream.read(1 << 20), b"")) / 1e6
        _print(_reading(source, megabytes))
        _print(_articles(jats))
        documents, model = _prepare(source, home / "corpus", tokenizer)
        _print(_packing(documents, model))
        _print(_signatures(documents))
        _print(_corpus(source, home / "several", megabytes, model))


def _multiplied(folder: Path, number: int) -> Path:
    """The bundled citations many times over, with PMIDs of their own."""
    text = (CORPUS / "pubmed/pubmed26n0001.xml").read_text(encoding="utf-8")
    head, _, rest = text.partition("<PubmedArticle>")
    body, _, tail = ("<PubmedArticle>" + rest).rpartition("</PubmedArticle>")
    body += "</PubmedArticle>"
    folder.mkdir(exist_ok=True)
    path = folder / f"pubmed26n{number + 1:04d}.xml.gz"
    with gzip.open(path, "wt", encoding="utf-8", compresslevel=6) as stream:
        stream.write(head)
        for copy in range(COPIES):
            stream.write(body.replace(">900000", f">{number + 1}{copy:03d}00"))
        stream.write(tail)
    return path


def _prepare(source: Path, output: Path, tokenizer: Path | None) -> tuple[Path, Path]:
    """A file of curated documents, and a tokenizer trained on it unless one is given."""
    raw = output / "raw"
    raw.mkdir(parents=True)
    (raw / source.name).symlink_to(source.resolve())
    trained = TokenizerSettings(train=TrainTokenizer(sample_bytes=20_000_000))
    config = CorpusConfig.model_validate({
        "output": output,
        "sources": {"pubmed": {"format": "pubmed", "path": raw}},
        "curate": {"validation_fraction": 0.0},
        "tokenizer": {"path": tokenizer} if tokenizer else trained,
    })  # fmt: skip
    download(config)
    for make in (ExtractStage, IdentifyStage, CurateStage, TokenizerStage):
        stage = make(config)
        failed = run_stage(stage).failed
        if failed:
            raise SystemExit(f"{stage.name}: {failed}")
    documents = output / "curate/pubmed" / source.name.removesuffix(".xml.gz") / "train.jsonl.zst"
    return documents, output / "tokenizer/model"


def _reading(source: Path, megabytes: float) -> list[str]:
    contenders = [
        Contender("read_citations: every field of a document", OURS, ["read_ours", str(source)]),
        Contender("decompression alone", "isal", ["gunzip_isal", str(source)]),
        Contender("plain lxml, title and abstract only", "lxml", ["read_lxml", str(source)]),
        Contender("pubmed_parser", "pubmed-parser", ["read_pubmed_parser", str(source)]),
    ]
    return compare("PubMed XML to documents", megabytes, contenders)


def _articles(folder: Path) -> list[str]:
    megabytes = sum(path.stat().st_size for path in folder.glob("*.*ml")) / 1e6
    contenders = [
        Contender("read_articles: text and metadata", OURS, ["jats_ours", str(folder)]),
        Contender("lxml's parsing alone", "lxml", ["jats_lxml", str(folder)]),
    ]
    return compare("JATS to documents", megabytes, contenders)


def _packing(documents: Path, tokenizer: Path) -> list[str]:
    given = [str(documents), str(tokenizer)]
    contenders = [
        Contender("pack: best-fit, compressed, checksummed", OURS, ["shards_ours", *given]),
        Contender("datatrove's DocumentTokenizer", "datatrove", ["shards_datatrove", *given]),
    ]
    return compare("Documents to shards", _megabytes(documents), contenders)


def _signatures(documents: Path) -> list[str]:
    contenders = [
        Contender("signatures", OURS, ["signatures_ours", str(documents)]),
        Contender(
            "datatrove's, words split at white space",
            "datatrove",
            ["signatures_datatrove", str(documents)],
        ),
    ]
    return compare("Near-duplicate signatures", _megabytes(documents), contenders)


def _corpus(source: Path, folder: Path, megabytes: float, tokenizer: Path) -> list[str]:
    """The whole path of several files on one worker and on two, and reading them alone."""
    folder.mkdir()
    for number in range(FILES):
        _with_other_pmids(source, folder / f"pubmed26n{number + 1:04d}.xml.gz", number)
    contenders = [
        Contender(f"all stages, {workers} worker{'s' if workers > 1 else ''}", OURS,
                  ["corpus_ours", str(folder), str(workers), str(tokenizer)])
        for workers in (1, 2)
    ]  # fmt: skip
    contenders.append(Contender("reading alone", OURS, ["read_folder", str(folder)]))
    return compare(f"{FILES} PubMed files to shard sets", FILES * megabytes, contenders)


def _with_other_pmids(source: Path, path: Path, number: int) -> None:
    """The file again with PMIDs that no other copy has."""
    with gzip.open(source) as stream, gzip.open(path, "wb", compresslevel=1) as copy:
        for line in stream:
            copy.write(line.replace(b'<PMID Version="1">', b'<PMID Version="1">%d' % (number + 1)))


def _megabytes(documents: Path) -> float:
    return sum(len(document["text"].encode()) for document in read_documents(documents)) / 1e6


def _print(lines: list[str]) -> None:
    print("\n".join(lines), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pubmed", type=Path)
    parser.add_argument("--jats", type=Path, default=CORPUS / "pmc")
    parser.add_argument("--tokenizer", type=Path)
    given = parser.parse_args()
    main(given.pubmed, given.jats, given.tokenizer)
