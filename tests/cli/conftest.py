"""The stores that some commands talk to."""

from tests.admission.conftest import server
from tests.log.conftest import _server, migrated, pg, run, url

__all__ = ["_server", "migrated", "pg", "run", "server", "url"]
