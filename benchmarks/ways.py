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


def read_folder(folder: str) -> Work:
    from data_prep.sources.pubmed.reader import read_citations

    paths = sorted(Path(folder).glob("*.xml.gz"))
    return lambda: [sum(1 for _ in read_citations(path)) for path in paths]


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
    from data_prep.shards.assemble import shard_format
    from data_prep.shards.build import encode_documents
    from data_prep.shards.writer import ShardWriter
    from data_prep.tokenizer.encode import load_encoder

    encoder = load_encoder(Path(tokenizer))
    form = shard_format(
        encoder, sequence_length=1024, policy="best_fit", row_group=256, begin_token=False
    )

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            shard, listed = Path(folder) / "shard.parquet", Path(folder) / "documents.parquet"
            with ShardWriter(shard, listed, form, 4096) as writer:
                for batch in encode_documents(Path(documents), encoder, form):
                    writer.add_batch(batch)

    return work


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


def signatures_ours(documents: str) -> Work:
    """The stage signatures on one file: reading, words, MinHash, writing."""
    from data_prep.config import CorpusConfig
    from data_prep.curate.signatures import SignaturesStage
    from data_prep.units import Unit

    stage = SignaturesStage(CorpusConfig.model_validate({"output": "."}))
    unit = Unit("one", {}, 0, {"documents": documents})

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            stage.run_unit(unit, Path(folder))

    return work


def signatures_datatrove(documents: str) -> Work:
    """datatrove's signature step, words split at white space instead of by a language's rules."""
    from datatrove.pipeline.dedup import minhash
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.utils.hashing import HashConfig

    class AtSpaces:
        def word_tokenize(self, text: str) -> list[str]:
            return text.split()

    # Its own splitter of English needs spaCy, and takes ten times as long.
    minhash.load_word_tokenizer = lambda language: AtSpaces()
    path = Path(documents)

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            hashing = HashConfig(precision=64, hash_fc="sha1")
            step = minhash.MinhashDedupSignature(folder, minhash.MinhashConfig(hash_config=hashing))
            reader = JsonlReader(str(path.parent), glob_pattern=path.name, compression="zstd")
            for _ in step.run(reader.run(), 0, 1) or ():
                pass

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
