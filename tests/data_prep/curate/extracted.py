"""What tests put into a corpus folder in place of the stage extract."""

import pyarrow.parquet as pq

from data_prep.config import CorpusConfig
from data_prep.curate.identity import IdentifyStage
from data_prep.curate.steps import decisions_name
from data_prep.documents import Deletion, DocumentWriter, empty_metadata
from data_prep.extract.index import IndexWriter
from data_prep.files import sha256_file, write_json
from data_prep.run.executor import run_stage

FORMATS = {"pubmed": "pubmed", "pmc": "jats", "papers": "s2orc", "books": "text"}


def document(text="Title\n\n" + "An abstract. " * 20, **metadata):
    """A full text; `id` follows from the keys unless given."""
    key = metadata.pop("id", None) or next(
        (f"{n}:{metadata[n]}" for n in ("pmid", "pmcid", "doi") if metadata.get(n)), "text:a#1"
    )
    known = empty_metadata() | {"licence": "cc-by-4.0", "language": "eng", "year": 2020}
    known |= {"abstract": "\n\n" in text.strip(), "kind": "full_text"} | metadata
    return {"id": key, "text": text, "source": "pmc", "metadata": known}


def citation(pmid, version=1, **metadata):
    known = {"licence": "nlm-terms", "kind": "citation"} | metadata
    return document(pmid=pmid, version=version, **known)


def deletion(pmid=None, version=1, pmcid=None):
    return Deletion(pmid, version, pmcid)


def retraction_of(*pmids):
    """Metadata of a notice that these were retracted."""
    return {"notice": True, "links": [{"type": "RetractionOf", "pmid": pmid} for pmid in pmids]}


class Corpus:
    """A corpus folder in which tests put extracted units, as the stage extract leaves them."""

    def __init__(self, output, **curate):
        sources = {n: {"format": f, "path": str(output / "raw")} for n, f in FORMATS.items()}
        self.output = output
        self.config = CorpusConfig.model_validate(
            {"output": str(output), "sources": sources, "curate": curate}
        )

    def extract(self, unit, events, file=None):
        folder = self.output / "extract" / unit
        folder.mkdir(parents=True, exist_ok=True)
        with (
            IndexWriter(folder / "index.parquet", file) as index,
            DocumentWriter(folder / "documents.jsonl.zst") as writer,
        ):
            for event in events:
                if isinstance(event, Deletion):
                    index.deletions([event])
                else:
                    index.documents([event])
                    writer.write({**event, "source": unit.split("/")[0]})
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
            for path in folder.iterdir()
            if path.name != "unit.json"
        }
        record = {"stage": "extract", "version": 1, "unit": unit, "inputs": {}, "settings": {}}
        write_json(folder / "unit.json", record | {"counts": {}, "files": files})


def decisions(corpus):
    """Reasons by unit, after the stage has run."""
    stage = IdentifyStage(corpus.config)
    assert not run_stage(stage).failed
    names = stage.units()[0].payload["indexes"]
    read = {n: pq.read_table(stage.directory / "all" / decisions_name(n)) for n in names}
    return {name: table["reason"].to_pylist() for name, table in read.items()}
