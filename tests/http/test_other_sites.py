"""A browser on another site's page changes nothing here, with or without a preflight."""

import pytest

from tests.support.harness import QUESTION, Client, live, settings_for

FORM = (
    b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.md"\r\n\r\n# A\r\n--x--\r\n'
)
MULTIPART = {"Content-Type": "multipart/form-data; boundary=x"}


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://evil.localhost", "Sec-Fetch-Site": "same-site"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
)
def test_form_of_another_site_is_refused(client: Client, headers: dict[str, str]) -> None:
    answered = client.request("POST", "/documents", FORM, {**MULTIPART, **headers})
    assert (answered.status, answered.error()["code"]) == (403, "forbidden")
    assert client.post("/query", QUESTION, headers).status == 403


def test_own_page_and_programs_are_let_in(client: Client) -> None:
    own = {"Origin": client.url, "Sec-Fetch-Site": "same-origin"}
    for headers in ({}, own, {"Origin": client.url}):
        assert client.post("/query", QUESTION, headers).status == 200


def test_origins_of_the_settings_are_let_in(engine, index_dir) -> None:
    settings = settings_for(engine.url, index_dir, api={"cors_origins": "https://app.example"})
    with live(settings) as (client, _):
        headers = {"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"}
        assert client.post("/query", QUESTION, headers).status == 200
