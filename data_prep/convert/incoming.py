"""Documents that come as bare token ids: checked against a tokenizer, and given what a shard set wants."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from data_prep.errors import DataError
from data_prep.shards.encoded import ABOUT, EncodedBatch
from data_prep.tokenizer.definition import read_definition
from data_prep.tokenizer.encode import load_encoder
from data_prep.tokenizer.fingerprint import token_bytes


class Incoming:
    """Makes documents of token ids; `name` is what errors and ids call their origin, `source` their source.

    Counts what it did: `empty` documents left out (no token but end tokens), `ended` given an end token.
    """

    def __init__(self, tokenizer: Path, name: str, source: str):
        self.encoder = load_encoder(tokenizer)
        self.name, self.source = name, source
        self.empty = self.ended = 0
        self.tokenizer = tokenizer
        self._number = 0
        definition = read_definition(tokenizer)
        special = set(definition.special_tokens().values())
        self._text_bytes = np.zeros(self.encoder.vocabulary_size, np.int64)
        for index, content in token_bytes(definition).items():
            self._text_bytes[index] = 0 if index in special else len(content)

    def check(self, tokens: np.ndarray) -> None:
        """Raise DataError naming the origin where an id is not in the vocabulary."""
        size = self.encoder.vocabulary_size
        if len(tokens) and (int(tokens.min()) < 0 or int(tokens.max()) >= size):
            wrong = int(tokens[np.flatnonzero((tokens < 0) | (tokens >= size))[0]])
            raise DataError(
                f"{self.name}: token id {wrong}, but the vocabulary of {self.tokenizer} has {size} ids; "
                "give the tokenizer that encoded it"
            )

    def check_begins(self, batch: EncodedBatch) -> None:
        """Raise DataError where a document does not begin with the begin token."""
        other = np.flatnonzero(batch.tokens[batch.starts[:-1]] != self.encoder.begin_id)
        if len(other):
            raise DataError(
                f"{self.name}: document {batch.about['id'][int(other[0])].as_py()} does not begin with the "
                f"begin token {self.encoder.begin_id}; leave out --begin_token"
            )

    def batch(self, tokens: np.ndarray, starts: np.ndarray) -> EncodedBatch:
        """Documents named by their number, each with an end token at its end and nowhere else.

        What has one inside is several documents; empty ones are left out.
        """
        end_id = self.encoder.end_id
        inner = np.setdiff1d(np.flatnonzero(tokens == end_id) + 1, starts)
        starts = np.sort(np.concatenate([starts, inner]))
        lengths = np.diff(starts)
        text = np.append(0, np.cumsum(tokens != end_id))
        kept = np.flatnonzero(np.diff(text[starts]) > 0)
        numbers = self._number + kept
        self._number += len(lengths)
        self.empty += len(lengths) - len(kept)
        if len(kept) < len(lengths):
            tokens = tokens[np.repeat(np.isin(np.arange(len(lengths)), kept), lengths)]
            starts = np.append(0, np.cumsum(lengths[kept]))
        open_end = np.flatnonzero(tokens[starts[1:] - 1] != end_id)
        self.ended += len(open_end)
        if len(open_end):
            wide = np.promote_types(tokens.dtype, np.min_scalar_type(end_id))
            tokens = np.insert(tokens.astype(wide), starts[1:][open_end], end_id)
            starts = starts + np.searchsorted(open_end, np.arange(len(starts)))
        columns = {
            "id": [f"{self.name}#{number}" for number in numbers.tolist()],
            "source": [self.source] * len(kept),
            "bytes": self._bytes(tokens, starts),
        }
        about = {
            field.name: columns.get(field.name, pa.nulls(len(kept), field.type)) for field in ABOUT
        }
        return EncodedBatch(pa.table(about, schema=ABOUT), tokens, starts)

    def _bytes(self, tokens: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Of the documents' texts in UTF-8: the sum of what their tokens spell."""
        return np.diff(np.append(0, np.cumsum(self._text_bytes[tokens]))[starts])
