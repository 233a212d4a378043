"""The work that is compared, one way a function: python -m benchmarks.ways NAME ARGUMENT …

A way imports what it needs and gives a function to be timed.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

Work = Callable[[], object]


def read_ours(path: str) -> Work:
    from data_prep.sources.pubmed.reader import read_citations

    return lambda: sum(1 for _ in read_citations(Path(path)))


def gunzip_isal(path: str) -> Work:
    """Decompression alone: no reader can be faster."""
    from isal import igzip

    def work() -> None:
        with igzip.open(path) as stream:
            while stream.read(1 << 20):
                pass

    return work


def read_lxml(path: str) -> Work:
    """Title and abstract with plain lxml over zlib, nothing else of the record."""
    import gzip

    from lxml import etree

    def work() -> int:
        characters = 0
        with gzip.open(path) as stream:
            for _, element in etree.iterparse(stream, tag="PubmedArticle"):
                for found in element.iter("ArticleTitle", "AbstractText"):
                    characters += len("".join(found.itertext()))
                element.clear()
                while element.getprevious() is not None:
                    del element.getparent()[0]
        return characters

    return work


def read_pubmed_parser(path: str) -> Work:
    import pubmed_parser

    return lambda: len(list(pubmed_parser.parse_medline_xml(path)))


def jats_ours(folder: str) -> Work:
    from data_prep.sources.jats.reader import read_articles

    paths = _articles(folder)
    return lambda: [sum(1 for _ in read_articles(path)) for path in paths]


def jats_lxml(folder: str) -> Work:
    """lxml's parsing alone: trees, and no text."""
    from lxml import etree

    paths = _articles(folder)
    return lambda: [etree.parse(path) for path in paths] and None


def _articles(folder: str) -> list[Path]:
    return sorted(p for p in Path(folder).iterdir() if p.suffix in (".xml", ".nxml"))


def shards_ours(documents: str, tokenizer: str) -> Work:
    """One file of documents packed best-fit into a shard: what the pack stage does for a unit."""
    from data_prep.shards.build import pack_file
    from data_prep.tokenizer.encode import load_encoder

    encoder = load_encoder(Path(tokenizer))
    return lambda: pack_file(Path(documents), encoder)


def shards_datatrove(documents: str, tokenizer: str) -> Work:
    """datatrove's tokenizer step: encoded and concatenated, neither packed nor compressed."""
    from datatrove.executor.local import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    path = Path(documents)

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            LocalPipelineExecutor(
                pipeline=[
                    JsonlReader(str(path.parent), glob_pattern=path.name, compression="zstd"),
                    DocumentTokenizer(
                        output_folder=f"{folder}/tokens",
                        tokenizer_name_or_path=f"{tokenizer}/tokenizer.json",
                        eos_token="<|endoftext|>",
                        shuffle_documents=False,
                    ),
                ],
                logging_dir=f"{folder}/log",
            ).run()

    return work


def corpus_ours(folder: str, workers: str, tokenizer: str) -> Work:
    """All stages, download's inventory to shard sets, of the PubMed files in a folder."""
    from data_prep.config import CorpusConfig
    from data_prep.pipeline import run

    def work() -> None:
        with tempfile.TemporaryDirectory() as output:
            config = CorpusConfig.model_validate({
                "output": output,
                "workers": int(workers),
                "sources": {"pubmed": {"format": "pubmed", "path": folder}},
                "tokenizer": {"path": tokenizer},
            })  # fmt: skip
            run("all", config, allow_failed=False)

    return work


if __name__ == "__main__":
    do = globals()[sys.argv[1]](*sys.argv[2:])
    began = time.perf_counter()
    do()
    print(json.dumps({"seconds": time.perf_counter() - began}))
