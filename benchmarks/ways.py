"""The work that is compared, one way a function: python -m benchmarks.ways NAME ARGUMENT …"""

import sys
import tempfile
from pathlib import Path


def read_ours(path: str) -> None:
    from data_prep.sources.pubmed import read_citations

    print(
        sum(len(document["text"]) for document in read_citations(Path(path)) if "text" in document)
    )  # type: ignore[operator, index]


def read_lxml(path: str) -> None:
    """Title and abstract with plain lxml over zlib, nothing else of the record."""
    import gzip

    from lxml import etree

    characters = 0
    with gzip.open(path) as stream:
        for _, element in etree.iterparse(stream, tag="PubmedArticle"):
            for found in element.iter("ArticleTitle", "AbstractText"):
                characters += len("".join(found.itertext()))
            element.clear()
            while element.getprevious() is not None:
                del element.getparent()[0]
    print(characters)


def read_pubmed_parser(path: str) -> None:
    import pubmed_parser

    print(len(list(pubmed_parser.parse_medline_xml(path))))


def shards_ours(documents: str, tokenizer: str) -> None:
    """One file of documents packed best-fit into a shard: what the pack stage does for a unit."""
    from data_prep.shards.assemble import shard_format
    from data_prep.shards.build import encode_documents
    from data_prep.shards.writer import ShardWriter
    from data_prep.tokenizer.encode import load_encoder

    encoder = load_encoder(Path(tokenizer))
    form = shard_format(
        encoder, sequence_length=1024, policy="best_fit", row_group=256, begin_token=False
    )
    with tempfile.TemporaryDirectory() as folder:
        shard, listed = Path(folder) / "shard.parquet", Path(folder) / "documents.parquet"
        with ShardWriter(shard, listed, form, 4096) as writer:
            for document in encode_documents(Path(documents), encoder, form):
                writer.add(document)
        print(writer.counts.as_json())


def shards_datatrove(documents: str, tokenizer: str) -> None:
    """datatrove's tokenizer step: encoded and concatenated, neither packed nor compressed."""
    from datatrove.executor.local import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    path = Path(documents)
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
        print(sum(file.stat().st_size for file in Path(folder, "tokens").glob("*.ds")))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
