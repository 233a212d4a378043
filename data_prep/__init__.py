"""Text in, shards out: PubMed, PMC and other text become packed token sequences in Parquet."""

__version__ = "0.1.0"
