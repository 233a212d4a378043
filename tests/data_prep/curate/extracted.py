"""What tests put into a corpus folder in place of the stage extract."""

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.config import CorpusConfig
from data_prep.documents import DocumentWriter, empty_metadata
from data_prep.files import sha256_file, write_json

INDEX_SCHEMA = pa.schema(
    [
        ("position", pa.int64()),
        ("kind", pa.string()),
        ("pmid", pa.int64()),
        ("version", pa.int32()),
        ("pmcid", pa.string()),
        ("doi", pa.string()),
        ("id", pa.string()),
        ("retracted", pa.bool_()),
        ("file_year", pa.int32()),
        ("file_number", pa.int32()),
        ("language", pa.string()),
        ("licence", pa.string()),
        ("characters", pa.int64()),
    ]
)


def document(kind="document", text="Title\n\n" + "An abstract. " * 20, **metadata):
    """A document, or the deletion of a PMID; `id` follows from the keys unless given."""
    key = metadata.pop("id", None) or next(
        (f"{n}:{metadata[n]}" for n in ("pmid", "pmcid", "doi") if metadata.get(n)), "text:a#1"
    )
    known = empty_metadata() | {"licence": "cc-by-4.0", "language": "eng", "year": 2020}
    known |= {"abstract": "\n\n" in text.strip()} | metadata
    return {"kind": kind, "id": key, "text": text, "metadata": known}


def citation(pmid, version=1, **metadata):
    return document(pmid=pmid, version=version, **({"licence": "nlm-terms"} | metadata))


def deletion(pmid, version=1):
    return document("deletion", pmid=pmid, version=version)


class Corpus:
    """A corpus folder in which tests put extracted units, as the stage extract leaves them."""

    def __init__(self, output, **curate):
        formats = {"pubmed": "pubmed", "pmc": "jats", "books": "text"}
        sources = {n: {"format": f, "path": str(output / "raw")} for n, f in formats.items()}
        self.output = output
        self.config = CorpusConfig.model_validate(
            {"output": str(output), "sources": sources, "curate": curate}
        )

    def extract(self, unit, events, file=(None, None)):
        source = unit.split("/")[0]
        folder = self.output / "extract" / unit
        folder.mkdir(parents=True, exist_ok=True)
        rows = [
            {
                **{key: event["metadata"].get(key) for key in INDEX_SCHEMA.names},
                **{"position": place, "kind": event["kind"], "id": event["id"]},
                **{"file_year": file[0], "file_number": file[1], "characters": len(event["text"])},
            }
            for place, event in enumerate(events)
        ]
        pq.write_table(pa.Table.from_pylist(rows, INDEX_SCHEMA), folder / "index.parquet")
        with DocumentWriter(folder / "documents.jsonl.zst") as writer:
            for event in events:
                if event["kind"] == "document":
                    kept = {key: event[key] for key in ("id", "text", "metadata")}
                    writer.write({**kept, "source": source})
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
            for path in folder.iterdir()
            if path.name != "unit.json"
        }
        record = {"stage": "extract", "version": 1, "unit": unit, "inputs": {}, "settings": {}}
        write_json(folder / "unit.json", record | {"counts": {}, "files": files})
