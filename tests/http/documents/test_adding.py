"""Documents come in over HTTP: JSON, NDJSON, files; jobs, and the list of what is there."""

import json

from tests.http.documents.countries import FRANCE, PERU
from tests.support.documents import add, ended, events_of, form, outcomes, searched
from tests.support.harness import Client, frames


def test_documents_are_found_once_their_job_is_done(client: Client) -> None:
    answered = client.post("/documents", {"documents": [FRANCE, PERU]})
    job = answered.json()["job"]
    assert (answered.status, answered.headers["location"]) == (202, f"/jobs/{job['id']}")
    assert (job["state"], job["generation"]) == ("queued", None)
    done = ended(client, answered)
    assert (done["state"], done["done"], done["total"], done["error"]) == ("done", 2, 2, None)
    assert outcomes(done) == [("france", "added"), ("peru", "added")]
    assert client.get("/generations").json()["current"] == done["generation"]
    assert searched(client, "the capital of France")[0] == "france"
    sources = client.post("/query", {"query": "What is the capital of Peru?"}).json()["sources"]
    assert sources[0]["doc_id"] == "peru"


def test_the_same_again_is_unchanged_and_builds_nothing(client: Client) -> None:
    first = add(client, FRANCE)
    answered = client.post("/documents", {"documents": [FRANCE]})
    job = answered.json()["job"]
    assert (job["state"], outcomes(job)) == ("done", [("france", "unchanged")])
    assert job["generation"] == first["generation"]
    changed = add(client, FRANCE | {"text": "Lyon lies on the Rhone."})
    assert outcomes(changed) == [("france", "updated")]
    assert changed["generation"] != first["generation"]
    assert client.get("/documents/france").json()["text"] == "Lyon lies on the Rhone."


def test_document_without_an_id_has_that_of_its_content(client: Client) -> None:
    first = add(client, {"text": "Owls hunt mice."})
    again = client.post("/documents", {"documents": [{"text": "Owls hunt mice."}]}).json()["job"]
    assert outcomes(again) == [(first["documents"][0]["doc_id"], "unchanged")]


def test_changes_of_a_window_are_one_generation(client: Client) -> None:
    posted = [
        client.post("/documents", {"documents": [{"id": f"w{n}", "text": f"number {n}"}]})
        for n in range(5)
    ]
    assert len({ended(client, one)["generation"] for one in posted}) <= 2


def test_ndjson_is_taken_line_by_line(client: Client) -> None:
    lines = [json.dumps({"id": f"n{n}", "text": f"line {n}"}) for n in range(3)]
    body = "\n".join([*lines, ""]).encode()
    kind = {"Content-Type": "application/x-ndjson"}
    answered = client.request("POST", "/documents", body, kind)
    assert outcomes(ended(client, answered)) == [(f"n{n}", "added") for n in range(3)]
    bad = client.request("POST", "/documents", body + b'{"id": 3}', kind)
    assert (bad.status, bad.error()["message"][:7]) == (422, "line 4:")
    assert client.request("POST", "/documents", b'{"id"', kind).status == 400


def test_files_become_documents_with_metadata_and_failures_are_told(client: Client) -> None:
    body, headers = form(
        ("files", "notes/owls.md", b"# Of owls\n\nOwls hunt mice at night."),
        ("files", "page.html", b"<title>Bats</title><p>Bats hang upside down.</p>"),
        ("files", "bad.txt", b"\xff\xfe\xfd"),
        ("files", "cut.pdf", b"%PDF-1.7 nothing more"),
        ("metadata", None, b'{"year": 2024}'),
        ("acl", None, b'["staff"]'),
    )
    job = ended(client, client.request("POST", "/documents", body, headers))
    assert job["state"] == "done"
    assert sorted(outcomes(job)) == [
        ("bad.txt", "failed"),
        ("cut.pdf", "failed"),
        ("notes/owls.md", "added"),
        ("page.html", "added"),
    ]
    assert all(one["reason"] for one in job["documents"] if one["status"] == "failed")
    owls = client.get("/documents/notes%2Fowls.md").json()
    assert (owls["title"], owls["metadata"], owls["acl"]) == ("Of owls", {"year": 2024}, ["staff"])
    assert searched(client, "Who hangs upside down?")[0] == "page.html"


def test_documents_are_listed_page_by_page_with_their_state(client: Client) -> None:
    add(client, *({"id": f"d{n}", "text": f"text {n}", "title": f"Title {n}"} for n in range(3)))
    first = client.get("/documents?limit=2").json()
    assert ([one["doc_id"] for one in first["documents"]], first["next"]) == (["d0", "d1"], "d1")
    rest = client.get(f"/documents?limit=2&after={first['next']}").json()
    assert ([one["doc_id"] for one in rest["documents"]], rest["next"]) == (["d2", "stays"], None)
    found = client.get("/documents?q=title%202").json()["documents"]
    assert [(one["doc_id"], one["chars"], one["state"]) for one in found] == [("d2", 6, "indexed")]
    assert "text" not in found[0]
    for query in ("limit=0", "limit=1001", "limit=x", "after=" + "y" * 513):
        assert client.get(f"/documents?{query}").status == 400


def test_job_is_followed_as_events_until_its_end(client: Client) -> None:
    path = client.post("/documents", {"documents": [FRANCE]}).headers["location"]
    answered = client.get(path, {"Accept": "text/event-stream"})
    assert answered.headers["content-type"].startswith("text/event-stream")
    followed = events_of(answered.body)
    assert {frame.event for frame in frames(answered.body)} == {"job"}
    assert [job["state"] for job in followed][-1] == "done"
    assert client.get("/jobs/none").status == 404
