"""make bench: every comparison, on text made from the bundled corpus; prints Markdown for docs/benchmarks.md.

python -m benchmarks [PUBMED.xml.gz]     on a real file instead
"""

import gzip
import sys
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


def main(given: str | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        source = Path(given) if given else _multiplied(home / "source")
        with gzip.open(source) as stream:
            megabytes = sum(len(chunk) for chunk in iter(lambda: stream.read(1 << 20), b"")) / 1e6
        _print(_reading(source, megabytes))
        documents, tokenizer = _prepare(source, home / "corpus")
        _print(_packing(documents, tokenizer))


def _multiplied(folder: Path) -> Path:
    """The bundled citations many times over, with PMIDs of their own."""
    text = (CORPUS / "pubmed/pubmed26n0001.xml").read_text(encoding="utf-8")
    head, _, rest = text.partition("<PubmedArticle>")
    body, _, tail = ("<PubmedArticle>" + rest).rpartition("</PubmedArticle>")
    body += "</PubmedArticle>"
    folder.mkdir()
    path = folder / "pubmed26n0001.xml.gz"
    with gzip.open(path, "wt", encoding="utf-8", compresslevel=6) as stream:
        stream.write(head)
        for copy in range(COPIES):
            stream.write(body.replace(">900000", f">9{copy:03d}00"))
        stream.write(tail)
    return path


def _prepare(source: Path, output: Path) -> tuple[Path, Path]:
    config = CorpusConfig.model_validate(
        {
            "output": output,
            "sources": {"pubmed": {"format": "pubmed", "path": source.parent}},
            "curate": {"validation_fraction": 0.0},
            "tokenizer": TokenizerSettings(train=TrainTokenizer(sample_bytes=20_000_000)),
        }
    )
    download(config)
    for stage in (
        ExtractStage(config),
        IdentifyStage(config),
        CurateStage(config),
        TokenizerStage(config),
    ):
        failed = run_stage(stage).failed
        if failed:
            raise SystemExit(f"{stage.name}: {failed}")
    documents = output / "curate/pubmed" / source.name.removesuffix(".xml.gz") / "train.jsonl.zst"
    return documents, output / "tokenizer/model"


def _reading(source: Path, megabytes: float) -> list[str]:
    def way(name: str) -> list[str]:
        return ["-m", "benchmarks.ways", name, str(source)]

    contenders = [
        Contender("read_citations", "biomed-pretrain", way("read_ours")),
        Contender("plain lxml, title and abstract only", "lxml", way("read_lxml")),
        Contender("pubmed_parser", "pubmed-parser", way("read_pubmed_parser")),
    ]
    return compare("PubMed XML to documents", megabytes, contenders)


def _packing(documents: Path, tokenizer: Path) -> list[str]:
    megabytes = sum(len(d["text"].encode()) for d in read_documents(documents)) / 1e6

    def way(name: str) -> list[str]:
        return ["-m", "benchmarks.ways", name, str(documents), str(tokenizer)]

    contenders = [
        Contender(
            "pack (best-fit, compressed, checksummed)", "biomed-pretrain", way("shards_ours")
        ),
        Contender("datatrove DocumentTokenizer", "datatrove", way("shards_datatrove")),
    ]
    return compare("Documents to shards", megabytes, contenders)


def _print(lines: list[str]) -> None:
    print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
