"""Every metric that a server with all its parts shows is named in the documents."""

import re
from pathlib import Path

from api.settings.types import Secret
from tests.support.caching import cached_in
from tests.support.engine import FakeEngine
from tests.support.harness import live, settings_for
from tests.support.servers import RedisServer

OPERATING = Path(__file__).parents[2] / "docs/operating.md"


def test_docs_name_every_metric(
    engine: FakeEngine, index_dir: Path, valkey: RedisServer, tmp_path: Path
) -> None:
    settings = settings_for(
        engine.url,
        index_dir,
        cache=cached_in(valkey),
        database={"database_url": Secret(f"sqlite:///{tmp_path}/log.sqlite")},
        limit={"enabled": True},
    )
    with live(settings) as (client, _):
        shown = client.get("/metrics").body.decode()
    names = set(re.findall(r"^# TYPE (rag_\w+?)(?:_created)? ", shown, re.MULTILINE))
    documented = OPERATING.read_text()
    assert len(names) > 35
    assert {name for name in names if name.removesuffix("_total") not in documented} == set()
