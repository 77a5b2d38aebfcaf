"""Filters on every way to an answer."""

import pytest

from tests.support.documents import add, searched
from tests.support.engine import FakeEngine
from tests.support.harness import Client, frames


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
