"""Documents over HTTP: bodies, forms, files and ids at and out of their bounds."""

from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.documents import add, ended, form, outcomes, searched
from tests.support.engine import FakeEngine
from tests.support.harness import Client, live, settings_for


@pytest.mark.parametrize(
    ("body", "status", "code", "told"),
    [
        ({"documents": []}, 422, "invalid", "documents"),
        ({"documents": [{"text": "x"}] * 1001}, 422, "invalid", "documents"),
        ({"documents": [{"text": " "}]}, 422, "invalid", "text"),
        ({"documents": [{"text": "a\0b"}]}, 422, "invalid", "text"),
        ({"documents": [{"text": "x", "id": ""}]}, 422, "invalid", "id"),
        ({"documents": [{"text": "x", "id": "a\nb"}]}, 422, "invalid", "id"),
        ({"documents": [{"text": "x", "id": "y" * 513}]}, 422, "invalid", "id"),
        ({"documents": [{"text": "x", "tenant": "other"}]}, 422, "invalid", "tenant"),
        ({"documents": [{"text": "x", "acl": [""]}]}, 422, "invalid", "acl"),
        ({"documents": [{"text": "x", "acl": ["g"] * 33}]}, 422, "invalid", "acl"),
        ({"documents": [{"text": "x", "metadata": {"a": "b" * 20_000}}]}, 422, "invalid", "metad"),
        (
            {"documents": [{"text": "x", "id": "1"}, {"text": "y", "id": "1"}]},
            422,
            "invalid",
            "'1'",
        ),
        (b"{", 400, "malformed", "JSON"),
        (b'{"documents": [{"text": "\xff"}]}', 400, "malformed", "UTF-8"),
        (b"[" * 100_000, 400, "malformed", "deep"),
    ],
)
def test_body_out_of_its_bounds_is_refused_whole(client, body, status, code, told) -> None:
    answered = client.post("/documents", body)
    assert (answered.status, answered.error()["code"]) == (status, code)
    assert told in answered.error()["message"]
    assert [one["doc_id"] for one in client.get("/documents").json()["documents"]] == ["stays"]


ONE_FILE = ("files", "a.txt", b"text")


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ([], 422),
        ([("files", None, b"no name")], 422),
        ([("other", "a.txt", b"x")], 422),
        ([("files", "a.exe", b"x")], 415),
        ([("files", "../..", b"x")], 422),
        ([("files", "a\x07.txt", b"x")], 422),
        ([("files", "x" * 510 + ".txt", b"x")], 422),
        ([ONE_FILE, ONE_FILE], 422),
        ([ONE_FILE, ("metadata", None, b"[]")], 422),
        ([ONE_FILE, ("metadata", None, b"{")], 400),
        ([ONE_FILE, ("acl", None, b'["a", 1]')], 422),
        ([ONE_FILE, ("acl", None, b" " * 70_000)], 413),
        ([("files", f"{n}.txt", b"x") for n in range(101)], 422),
        ([("files", f"{n}.txt", b"x") for n in range(200)], 400),
    ],
)
def test_form_out_of_its_bounds_is_refused_whole(client, parts, status) -> None:
    body, headers = form(*parts)
    answered = client.request("POST", "/documents", body, headers)
    assert (answered.status, len(answered.error()["message"]) > 10) == (status, True)
    assert [one["doc_id"] for one in client.get("/documents").json()["documents"]] == ["stays"]


def test_file_that_cannot_be_read_is_named_with_what_can(client: Client) -> None:
    body, headers = form(("files", "notes.xyz", b"x"))
    told = client.request("POST", "/documents", body, headers).error()["message"]
    assert told.startswith("notes.xyz: .xyz files cannot be read; supported: .")
    assert ".pdf, .docx" in told


def test_form_that_is_cut_or_of_no_known_kind_is_refused(client: Client) -> None:
    body, headers = form(ONE_FILE)
    assert client.request("POST", "/documents", body[:-10], headers).status == 400
    plain = client.request("POST", "/documents", body, {"Content-Type": "text/plain"})
    assert (plain.status, plain.error()["code"]) == (415, "unsupported_media_type")
    assert client.request("POST", "/documents", b"x").status == 415


def test_file_names_stay_inside_and_files_touch_no_other_path(client: Client) -> None:
    body, headers = form(("files", "../../etc/../tmp\\owls.txt", b"Owls hunt mice."))
    job = ended(client, client.request("POST", "/documents", body, headers))
    assert outcomes(job) == [("etc/tmp/owls.txt", "added")]


def test_body_beyond_its_limit_is_413_and_larger_than_other_bodies(
    engine: FakeEngine, index_dir: Path
) -> None:
    settings = settings_for(engine.url, index_dir, ingest={"body_limit": 100_000})
    with live(settings, wait=False) as (client, _):
        answered = client.post("/documents", {"documents": [{"text": "x" * 100_001}]})
        assert (answered.status, answered.error()["code"]) == (413, "too_large")
        assert "INGEST_BODY_LIMIT" in answered.error()["message"]
        # Of an index that has no library, so nothing may be added; but it was read.
        longer = client.post("/documents", {"documents": [{"text": "x" * 70_000}]})
        assert (longer.status, longer.error()["code"]) == (503, "index_unwritable")
        assert "ragrelay index" in longer.error()["message"]


@pytest.mark.parametrize(
    "doc_id",
    ["a/b#1?c=d", "/lead", "trail/", "a//b", "../up", "%2F", "zo\u00eb \u2028 \u6771", " x"],
)
def test_any_id_comes_back_as_it_went_in(client: Client, doc_id: str) -> None:
    add(client, {"id": doc_id, "text": "An odd one."})
    path = f"/documents/{quote(doc_id, safe='')}"
    assert client.get(path).json()["doc_id"] == doc_id
    assert doc_id in searched(client, "An odd one")
    assert client.request("DELETE", path).json() == {"doc_id": doc_id, "deleted": True}
    assert client.get(path).status == 404
