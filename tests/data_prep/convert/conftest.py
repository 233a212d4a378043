"""What the tests of shard sets use, and documents that end as a corpus' do."""

from tests.data_prep.shards.conftest import (  # noqa: F401 - fixtures
    fingerprint,
    form,
    make_set,
    tokenizer,
)
