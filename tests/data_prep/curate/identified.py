"""A corpus folder with extracted units and what identify decided about them, put there by tests."""

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.config import CorpusConfig
from data_prep.curate.decisions import KEEP, read_decisions, write_decisions
from data_prep.documents import DocumentWriter, empty_metadata
from data_prep.extract.index import INDEX_SCHEMA
from data_prep.files import sha256_file, write_json

DROPPED = "language"


def put_unit(folder, name, stage, inputs=None):
    """Record the files in `folder` as a finished unit's."""
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "unit.json"
    }
    record = {"stage": stage, "version": 1, "unit": name, "inputs": inputs or {}, "settings": {}}
    write_json(folder / "unit.json", record | {"counts": {}, "files": files})


class Identified:
    """Documents are (id, text) pairs; those whose ids are in `dropped` do not stay."""

    def __init__(self, output, **curate):
        sources = {name: {"format": "text", "path": str(output / "raw")} for name in ("a", "b")}
        self.output = output
        self.config = CorpusConfig.model_validate(
            {"output": str(output), "sources": sources, "curate": curate}
        )

    def put(self, units, dropped=()):
        for name, documents in units.items():
            self._extract(name, documents)
            reasons = [int(key in dropped) for key, _ in documents]
            path = self.output / "identify/all/decisions" / f"{name}.parquet"
            write_decisions(path, pa.array(reasons, pa.uint8()).to_numpy(), (KEEP, DROPPED))
        put_unit(self.output / "identify/all", "all", "identify")

    def _extract(self, name, documents):
        folder = self.output / "extract" / name
        folder.mkdir(parents=True, exist_ok=True)
        rows = [
            {"kind": "document", "position": place, "id": key, "characters": len(text)}
            for place, (key, text) in enumerate(documents)
        ]
        # A deletion has a row but is no document.
        rows.insert(len(rows) // 2, {"kind": "deletion", "position": -1, "pmid": 1})
        pq.write_table(pa.Table.from_pylist(rows, INDEX_SCHEMA), folder / "index.parquet")
        with DocumentWriter(folder / "documents.jsonl.zst") as writer:
            for key, text in documents:
                about = {"source": name.partition("/")[0], "metadata": empty_metadata()}
                writer.write({"id": key, "text": text} | about)
        put_unit(folder, name, "extract")

    def decided(self, path):
        """Reasons in a decisions file of this corpus."""
        return list(read_decisions([self.output / path]))
