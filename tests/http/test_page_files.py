"""The files of the page as they stand on the wire: their types, each said once."""

import pytest

from tests.support.harness import Client


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/page/base.css", "text/css; charset=utf-8"),
        ("/page/main.js", "text/javascript; charset=utf-8"),
        ("/page/icon.svg", "image/svg+xml"),
        ("/docs", "text/html; charset=utf-8"),
    ],
)
def test_page_file_has_its_type_once(client: Client, path: str, kind: str) -> None:
    answered = client.get(path)
    assert (answered.status, answered.headers["content-type"]) == (200, kind)
