"""Rules, alerts and panels against a real Prometheus that scrapes a live API under load, and
exporters that show what engines and GPUs show.
"""

import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.infra.exporter import EXPOSITIONS, Exporter, sample_names
from tests.infra.servers import Prometheus, prometheus
from tests.infra.tools import INFRA, ROOT, compose_yaml, run, tool
from tests.support.caching import cached_in
from tests.support.engine import FakeEngine, answer_json, saying
from tests.support.harness import Client, live, settings_for
from tests.support.servers import AS_CACHE, redis_server
from tests.support.waiting import eventually

RULES = {name: compose_yaml(f"infra/prometheus/{name}.yml") for name in ("recording", "alerts")}
DASHBOARD = json.loads((INFRA / "grafana/dashboards/ragrelay.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
OF_PROMETHEUS = {"up", "prometheus_config_last_reload_successful"}
EXPERIMENT = """
[experiment]
name = "warmer"
[[experiment.variants]]
name = "a"
[[experiment.variants]]
name = "b"
temperature = 0.9
"""
WORDS = {"or", "and", "unless", "bool"}


def rules(kind: str) -> list[dict[str, Any]]:
    """Return the rules with `record` or `alert`."""
    files = RULES.values()
    return [r for file in files for group in file["groups"] for r in group["rules"] if kind in r]


def promql(expr: str) -> str:
    """Return a panel's query with Grafana's variables filled in."""
    filled = expr.replace("$__rate_interval", "30s")
    return re.sub(r"\$(instance|engine)\b", ".*", filled)


def metric_names(expr: str) -> set[str]:
    """Return the metrics that a query reads."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", re.sub(r'"[^"]*"', "", expr))
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    return set(re.findall(r"(?<![\w:])([a-zA-Z_:][\w:]*)\b(?!\s*\()", bare)) - WORDS


class Running(NamedTuple):
    prometheus: Prometheus
    api: Client
    engine: FakeEngine


@pytest.fixture(scope="module")
def running(
    _engine: FakeEngine, index_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """An API with its cache, three engines' and two GPU exporters, and Prometheus."""
    folder = tmp_path_factory.mktemp("stack")
    with ExitStack() as stack:
        valkey = stack.enter_context(redis_server(folder, *AS_CACHE))
        experiment = folder / "experiment.toml"
        experiment.write_text(EXPERIMENT)
        settings = settings_for(
            _engine.url,
            index_dir,
            experiments={"file": str(experiment)},
            cache=cached_in(valkey),
            database={"database_url": f"sqlite:///{folder}/log.sqlite"},
            limit={"enabled": True, "search_per_minute": 1, "query_per_minute": 0},
        )
        api, _ = stack.enter_context(live(settings))
        ports = {"api": api.port}
        for name in ("tgi", "vllm", "llamacpp"):
            ports[name] = stack.enter_context(Exporter(name)).port
        ports["gpu-exporter"] = stack.enter_context(Exporter("nvidia")).port
        yield Running(stack.enter_context(prometheus(ports, folder)), api, _engine)


def use(running: Running) -> None:
    """Ask once of everything that leaves a trace in the metrics."""
    api, engine = running.api, running.engine
    engine.script = saying(["Paris", " is", " it."], every=0.02)
    api.post("/query", {"query": "What is the capital of France?"})
    fresh = {"Cache-Control": "no-cache"}
    api.post("/query/stream", {"query": "Which river flows through Paris?"}, fresh)
    # Alike but for a number, which the cache must tell apart.
    for minutes in ("two", "three"):
        question = f"Is green tea brewed with water of eighty degrees for {minutes} minutes?"
        api.post("/query", {"query": question})
    api.post("/query", {"query": "?"})
    api.post("/search", {"query": "Machu Picchu"})
    for status in (429, 500):
        engine.script = answer_json(status, {"error": {"message": "no"}})
        api.post("/query", {"query": "What did the Incas build?"}, fresh)


def has_data(server: Prometheus, expr: str) -> bool:
    values = [float(sample["value"][1]) for sample in server.query(promql(expr))]
    return any(not math.isnan(value) for value in values)


def without_data(server: Prometheus) -> list[str]:
    """Return panel and legend of every query that has nothing to show."""
    return [
        f"{panel['title']}: {target['legendFormat']}"
        for panel in PANELS
        for target in panel["targets"]
        if not has_data(server, target["expr"])
    ]


@pytest.fixture(scope="module")
def used(running: Running) -> Running:
    """The stack after some load: until every panel shows something, a minute at most."""

    def shows_all() -> bool:
        use(running)
        return not without_data(running.prometheus)

    try:
        eventually(shows_all, within_s=60)
    except AssertionError:
        pass  # the tests below say which panels are empty
    return running


def test_panels_all_show_data(used: Running) -> None:
    assert without_data(used.prometheus) == []


def test_recording_rules_all_have_results(used: Running) -> None:
    empty = [r["record"] for r in rules("record") if not has_data(used.prometheus, r["record"])]
    assert empty == []


def test_rules_are_evaluated_without_error(used: Running) -> None:
    groups = used.prometheus.ask("rules")["groups"]
    loaded = [rule for group in groups for rule in group["rules"]]
    assert len(loaded) == len(rules("record")) + len(rules("alert"))
    assert [(r["name"], r.get("lastError")) for r in loaded if r["health"] != "ok"] == []


def test_targets_are_all_up_and_carry_the_engines_name(used: Running) -> None:
    up = used.prometheus.query("up")
    assert {sample["metric"]["job"] for sample in up} == {"prometheus", "api", "engine", "gpu"}
    assert [sample["metric"] for sample in up if sample["value"][1] != "1"] == []
    engines = {
        sample["metric"].get("engine") for sample in up if sample["metric"]["job"] == "engine"
    }
    assert engines == {"tgi", "vllm", "llamacpp"}


def test_engines_useless_series_are_dropped(used: Running) -> None:
    assert "tgi_batch_next_size_bucket" in sample_names((EXPOSITIONS / "tgi.txt").read_text())
    assert used.prometheus.query("tgi_batch_next_size_bucket") == []
    assert used.prometheus.query("tgi_batch_inference_duration_bucket") != []


def test_annotations_parse(used: Running) -> None:
    for annotation in DASHBOARD["annotations"]["list"]:
        used.prometheus.query(promql(annotation["expr"]))


def test_queries_name_metrics_that_exist(used: Running) -> None:
    """Each is in the API's registry, in an engine's or exporter's exposition, or recorded."""
    known = sample_names(used.api.get("/metrics").body.decode()) | OF_PROMETHEUS
    known |= {rule["record"] for rule in rules("record")}
    for path in EXPOSITIONS.glob("*.txt"):
        known |= sample_names(path.read_text())
    queries = {f"panel {p['title']}": t["expr"] for p in PANELS for t in p["targets"]}
    queries |= {rule["record"]: rule["expr"] for rule in rules("record")}
    queries |= {rule["alert"]: rule["expr"] for rule in rules("alert")}
    unknown = {name: metric_names(expr) - known for name, expr in queries.items()}
    assert {name: names for name, names in unknown.items() if names} == {}


def test_metrics_pass_promtools_check(used: Running) -> None:
    """Families of ours; the client library's own are not ours to name."""
    told = subprocess.run(
        [tool("promtool"), "check", "metrics"],
        input=used.api.get("/metrics").body,
        capture_output=True,
        timeout=60,
    )
    lines = (told.stdout + told.stderr).decode().splitlines()
    assert [line for line in lines if line.startswith("rag_")] == []


# --- without a server


def test_metric_names_of_a_query() -> None:
    query = 'sum by (le, a:b) (rate(x_total{job="or y"}[5m])) / on(c) (vllm:z > 1e9) or vector(0)'
    assert metric_names(query) == {"x_total", "vllm:z"}


def test_prometheus_configuration_passes_promtool() -> None:
    done = run("promtool", "check", "config", INFRA / "prometheus/prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    files = [INFRA / f"prometheus/{name}.yml" for name in RULES]
    done = run("promtool", "check", "rules", "--lint=all", "--lint-fatal", *files)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_fire_as_rules_test_yml_says() -> None:
    done = run("promtool", "test", "rules", Path(__file__).with_name("rules_test.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("rule", rules("alert"), ids=lambda rule: rule["alert"])
def test_alert_says_what_it_saw_and_has_a_runbook(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    told = rule["annotations"]
    assert told["summary"] and "$value" in told["description"]
    page, _, anchor = told["runbook_url"].partition("#")
    headings = re.findall(r"^## (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor in {re.sub(r"\W", "", heading).lower() for heading in headings}
    assert rule["alert"].lower().startswith(anchor)


def test_dashboard_is_what_build_py_makes_of_panels_yml() -> None:
    built = subprocess.run(
        [sys.executable, INFRA / "grafana/build.py"], capture_output=True, text=True, check=True
    )
    assert json.loads(built.stdout) == DASHBOARD


def test_panels_say_what_they_show_and_lie_beside_each_other() -> None:
    places: set[tuple[int, int]] = set()
    for panel in PANELS:
        assert panel["title"] and panel["description"] and panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${datasource}"
        at = panel["gridPos"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not cells & places and at["x"] + at["w"] <= 24, panel["title"]
        places |= cells
        for target in panel["targets"]:
            assert not re.search(
                r"\b(rate|increase)\([^[]*\[(?!\$__rate_interval|1h)", target["expr"]
            )


def test_dashboard_is_provisioned_where_compose_mounts_it() -> None:
    grafana = compose_yaml()["services"]["grafana"]
    mounts = dict(volume.split(":")[:2] for volume in grafana["volumes"])
    folder = mounts["./infra/grafana/dashboards"]
    provider = compose_yaml("infra/grafana/provisioning/dashboards/ragrelay.yml")["providers"][0]
    assert provider["options"]["path"] == folder
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{folder}/ragrelay.json"
    source = compose_yaml("infra/grafana/provisioning/datasources/prometheus.yml")["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
