"""Writes a Parquet file row group by row group, with a checksum of each; see parquet_file.py."""

import io
import zlib
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.shards.schema import ROW_GROUP_CHECKSUMS

COMPRESSION = {"compression": "zstd", "compression_level": 3}  # Zstandard's own default level


class _CountingSink(io.RawIOBase):
    """Passes bytes on to a file and keeps their CRC-32."""

    def __init__(self, stream: BinaryIO):
        self.stream = stream
        self.position = 0
        self.checksum = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def write(self, data) -> int:  # type: ignore[no-untyped-def,override]
        self.checksum = zlib.crc32(data, self.checksum)
        self.position += len(data)
        return self.stream.write(data)

    def take_checksum(self) -> int:
        checksum, self.checksum = self.checksum, 0
        return checksum


class ParquetFileWriter:
    """Writes one table after another, each as one row group; close() ends the file."""

    def __init__(
        self, path: Path, schema: pa.Schema, encodings: dict[str, str], metadata: dict[str, str]
    ):
        self._stream = path.open("wb")
        self._sink = _CountingSink(self._stream)
        self._writer = pq.ParquetWriter(
            self._sink,
            schema,
            use_dictionary=False,
            column_encoding=encodings,
            write_statistics=False,
            write_page_checksum=True,
            store_schema=False,
            **COMPRESSION,
        )
        self._metadata = metadata
        self._checksums: list[int] = []

    def write(self, table: pa.Table) -> None:
        self._writer.write_table(table, row_group_size=table.num_rows)
        self._checksums.append(self._sink.take_checksum())

    def close(self) -> None:
        checksums = " ".join(f"{checksum:08x}" for checksum in self._checksums)
        self._writer.add_key_value_metadata(self._metadata | {ROW_GROUP_CHECKSUMS: checksums})
        self._writer.close()
        self._stream.close()
