"""Documents in and out over HTTP: jobs, forms, limits, deletion, filters."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from api.http.edge import Edge
from retrieval.index.filters import EVERYTHING
from retrieval.library.library import Library
from tests.answering.test_cached import Valkey
from tests.retrieval.library.serving import add, ended, events_of, form, outcomes, searched, served
from tests.support.fake_engine import FakeEngine, saying
from tests.support.harness import Client, Stream, eventually, frames, live, settings_for, text_of

FRANCE = {"id": "france", "title": "France", "text": "Paris is the capital of France."}
PERU = {"id": "peru", "title": "Peru", "text": "Lima is the capital of Peru."}


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    started = Valkey()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def _open(
    _engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory, valkey: Valkey
) -> Iterator[tuple[Client, Edge]]:
    cache = {"enabled": True, "redis_url": valkey.url}
    with served(_engine, tmp_path_factory.mktemp("index"), cache=cache) as running:
        add(running[0], {"id": "stays", "text": "Green tea is brewed for two minutes."})
        yield running


@pytest.fixture
def client(_open: tuple[Client, Edge], engine: FakeEngine) -> Iterator[Client]:
    """A server without keys, over a library with one document."""
    yield _open[0]
    for one in _open[0].get("/documents?limit=1000").json()["documents"]:
        if one["doc_id"] != "stays":
            _open[0].request("DELETE", f"/documents/{quote(one['doc_id'], safe='')}")


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


def test_deleted_document_is_gone_from_everything_at_once(
    client: Client, _open: tuple[Client, Edge], engine: FakeEngine
) -> None:
    add(client, FRANCE)
    question = {"query": "What is the capital of France?"}
    batch, key = {"queries": [question["query"]]}, {"Idempotency-Key": "once"}
    assert client.post("/query", question).json()["sources"][0]["doc_id"] == "france"
    assert client.post("/query", question).json()["cache"]["kind"] == "exact"
    client.post("/batch", batch, key)
    asked = len(engine.chats)

    assert client.request("DELETE", "/documents/france").status == 200
    assert "france" not in searched(client, question["query"])
    after = client.post("/query", question).json()
    assert (after["cache"]["kind"], "france" in str(after["sources"])) == ("none", False)
    again = client.post("/batch", batch, key)
    assert "idempotency-replayed" not in again.headers
    assert "Paris is the capital" not in again.body.decode()
    assert client.get("/documents/france").status == 404
    assert client.request("DELETE", "/documents/france").status == 404
    for chat in engine.chats[asked:]:
        assert b"Paris is the capital" not in chat.body


def test_delete_holds_while_the_store_of_the_cache_is_down(
    engine: FakeEngine, tmp_path: Path
) -> None:
    store = Valkey()
    question = {"query": "What is the capital of France?"}
    cache = {"enabled": True, "redis_url": store.url}
    try:
        with served(engine, tmp_path / "index", cache=cache, ingest={"window_seconds": 5}) as (
            client,
            app,
        ):
            add(client, FRANCE, PERU)
            client.post("/query", question)
            eventually(lambda: client.post("/query", question).json()["cache"]["kind"] == "exact")
            before = client.get("/generations").json()["current"]
            entries = app.service.cache
            store.stop()
            # As another process would: this one's cache is told nothing.
            app.service.ingest._library.delete("france", EVERYTHING)
            after = client.post("/query", question).json()
            assert client.get("/generations").json()["current"] == before
            assert entries.stats().entries == 1
            assert (after["cache"]["kind"], "france" in str(after["sources"])) == ("none", False)
            assert client.request("DELETE", "/documents/peru").status == 200
    finally:
        store.stop()


def test_nobody_joins_an_answer_from_what_is_deleted_meanwhile(
    client: Client, engine: FakeEngine
) -> None:
    add(client, FRANCE)
    engine.script = saying(["Paris", " it is."], first_after=1.5)
    question = {"query": "What is the capital of France?"}
    with Stream(client, body=question) as stream:
        eventually(lambda: len(engine.chats) == 1)
        client.request("DELETE", "/documents/france")
        engine.script = saying(["Unknown."])
        joined = client.post("/query", question).json()
        assert (joined["cache"]["kind"], "france" in str(joined["sources"])) == ("none", False)
        assert text_of(frames(stream.read().read())) == "Paris it is."


def test_filters_hold_on_every_way_to_an_answer_and_part_the_cache(
    client: Client, engine: FakeEngine
) -> None:
    years = [{"id": f"y{y}", "text": f"The fair of {y} was held in Lyon.", "metadata": {"year": y}}
             for y in (2022, 2023, 2024)]  # fmt: skip
    add(client, *years)
    query = "Where was the fair held?"
    late = {"query": query, "filters": {"year": {"gte": 2024}}}
    other = {"query": query, "filters": {"year": 2022}}
    assert searched(client, query, filters=late["filters"]) == ["y2024"]

    def cited(answer: dict) -> list[str]:
        return [source["doc_id"] for source in answer["sources"]]

    first, second = client.post("/query", late).json(), client.post("/query", other).json()
    assert (cited(first), cited(second)) == (["y2024"], ["y2022"])
    assert second["cache"]["kind"] == "none"
    again = client.post("/query", late).json()
    assert (again["cache"]["kind"], cited(again)) == ("exact", ["y2024"])
    stream = frames(client.post("/query/stream", other).body)
    assert [one["doc_id"] for one in stream[0].data["sources"]] == ["y2022"]
    batch = client.post("/batch", {"queries": [late, other]}).json()["results"]
    assert [cited(one["response"]) for one in batch] == [["y2024"], ["y2022"]]
    chat = {
        "messages": [{"role": "user", "content": query}],
        "ragrelay": {"filters": {"year": 2023}},
    }
    told = client.post("/v1/chat/completions", chat).json()
    assert cited(told["ragrelay"]) == ["y2023"]


@pytest.mark.parametrize(
    "filters", [[], "x", {"a": {"like": "x"}}, {"or": []}, {"a": {}}, {"a": {"in": [1] * 101}}]
)
def test_filters_that_are_none_are_422_everywhere(client: Client, filters: object) -> None:
    question = {"query": "What is it?", "filters": filters}
    for path in ("/query", "/query/stream", "/search"):
        answered = client.post(path, question)
        assert (answered.status, answered.error()["code"]) == (422, "invalid"), path
        assert "filters" in answered.error()["message"]
    result = client.post("/batch", {"queries": [question]}).json()["results"][0]
    assert (result["status"], result["error"]["code"]) == (422, "invalid")
    chat = {
        "messages": [{"role": "user", "content": "What?"}],
        "ragrelay": {"filters": filters},
    }
    assert client.post("/v1/chat/completions", chat).status == 400


def test_restart_builds_what_was_left_and_keeps_jobs(engine: FakeEngine, tmp_path: Path) -> None:
    index_dir = tmp_path / "index"
    slow = {"window_seconds": 5}
    with served(engine, index_dir, ingest=slow) as (client, _):
        answered = client.post("/documents", {"documents": [FRANCE]})
        body, headers = form(("files", "peru.txt", b"Lima is the capital of Peru."))
        upload = client.request("POST", "/documents", body, headers)
        assert client.get(answered.headers["location"]).json()["job"]["state"] == "queued"
    with served(engine, index_dir) as (client, _):
        assert ended(client, answered)["state"] == ended(client, upload)["state"] == "done"
        assert set(searched(client, "the capital")) == {"france", "peru.txt"}


def test_two_processes_share_library_deletions_and_generations(
    engine: FakeEngine, tmp_path: Path
) -> None:
    index_dir = tmp_path / "index"
    with served(engine, index_dir) as (one, _), served(engine, index_dir) as (two, _):
        jobs = [
            (
                client,
                client.post("/documents", {"documents": [{"id": f"{n}-{m}", "text": f"owl {m}"}]}),
            )
            for m in range(4)
            for n, client in enumerate((one, two))
        ]
        assert all(ended(client, job)["state"] == "done" for client, job in jobs)
        everything = {f"{n}-{m}" for n in range(2) for m in range(4)}
        for client in (one, two):
            eventually(lambda c=client: c.get("/health/ready").status == 200, within_s=20)
            eventually(lambda c=client: set(searched(c, "the owl")) == everything, within_s=20)
        assert one.request("DELETE", "/documents/1-3").status == 200
        assert "1-3" not in searched(two, "the owl")
        assert two.get("/documents/1-3").status == 404


def test_swaps_leave_no_mapping_behind(client: Client) -> None:
    def mapped() -> int:
        maps = Path("/proc/self/maps").read_text()
        return sum("/generations/" in line for line in maps.splitlines())

    add(client, {"id": "swap", "text": "edition 0"})
    before = mapped()
    for n in range(1, 9):
        add(client, {"id": "swap", "text": f"edition {n}"})
    eventually(lambda: mapped() <= before, within_s=10)


def test_folder_that_cannot_be_written_is_503_and_search_goes_on(
    client: Client, _open: tuple[Client, Edge]
) -> None:
    library = _open[1].service.ingest._library
    holder, done = threading.Event(), threading.Event()

    def hold() -> None:
        other = Library(library.index_dir)
        with other.change():
            holder.set()
            done.wait(30)
        other.close()

    thread = threading.Thread(target=hold)
    thread.start()
    assert holder.wait(5)
    try:
        answered = client.post("/documents", {"documents": [FRANCE]})
        assert (answered.status, answered.error()["code"]) == (503, "index_unwritable")
        assert int(answered.headers["retry-after"]) >= 1
        assert searched(client, "green tea") == ["stays"]
    finally:
        done.set()
        thread.join(10)
    assert add(client, FRANCE)["state"] == "done"
