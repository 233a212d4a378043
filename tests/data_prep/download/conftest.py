"""What several tests of downloads start from."""

import pytest

from tests.data_prep.download.pmc_server import PmcServer


@pytest.fixture(scope="module")
def running():
    server = PmcServer()
    yield server
    server.close()
