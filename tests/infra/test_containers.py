"""What each container of compose.yaml may do: rights, bounds, networks, secrets."""

import re
from pathlib import Path

import pytest

from api.settings.env import variables
from tests.infra.stacks import environment
from tests.infra.tools import ENGINES, INFRA, compose

ONE_SHOT = {"init", "index", "migrate"}
PUBLISHED = {"proxy", "prometheus", "grafana"}
AS_ROOT = {
    "tgi": "its entrypoint calls ldconfig and its Python lies in root's home",
    "vllm": "its image has no other user that owns its caches",
    "llamacpp": "its image has no other user, and a new volume is root's",
}
UNSEALED = {"tgi": "compiles kernels and loads them", "vllm": "compiles kernels and loads them"}
# Not settings of the API: read by libraries in its image.
OF_LIBRARIES = {"HF_HOME", "HF_TOKEN"}
MEMORY_MB = {"redis-cache": 384, "prometheus": 512, "grafana": 512}


def seconds(duration: str) -> float:
    units = {"h": 3600, "m": 60, "s": 1}
    return sum(float(n) * units[unit] for n, unit in re.findall(r"([\d.]+)([hms])", duration))


def test_images_carry_an_exact_tag(stacks: list) -> None:
    for _, name, service in stacks:
        tag = service["image"].rpartition(":")[2]
        assert "build" in service or re.search(r"\d+\.\d+|b\d{4}", tag), f"{name}: {tag}"
        assert "latest" not in tag


def test_services_are_bounded_and_hardened(stacks: list) -> None:
    for engine, name, service in stacks:
        key = engine if name == "engine" else name
        limits = service["deploy"]["resources"]["limits"]
        assert int(limits["memory"]) > 0 and int(limits["pids"]) > 0, name
        assert service["logging"]["options"]["max-size"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service.get("read_only") or key in UNSEALED, name
        user = str(service.get("user", "0"))
        assert re.fullmatch(r"[1-9]\d*:\d+", user) or key in AS_ROOT, f"{name}: {user}"
        assert not service.get("privileged") and not service.get("pid"), name
        assert service.get("network_mode", "none") == "none", name
        assert service["restart"] == ("no" if name in ONE_SHOT else "unless-stopped"), name
        assert name in ONE_SHOT or service["healthcheck"]["test"], name
        if name in MEMORY_MB:
            assert int(limits["memory"]) == MEMORY_MB[name] << 20


def test_mounts_from_the_host_are_files_of_ours_and_read_only(stacks: list) -> None:
    for _, name, service in stacks:
        for mount in service.get("volumes", []):
            if mount["type"] == "bind":
                assert mount["read_only"], f"{name}: {mount['source']}"
                source = Path(mount["source"])
                assert source.is_relative_to(INFRA) and source.exists(), source


def test_ports_are_published_on_loopback_by_the_proxy_and_the_dashboards_alone() -> None:
    for engine in ENGINES:
        model = compose(ENGINE=engine)["services"]
        assert {name for name, service in model.items() if service.get("ports")} == PUBLISHED
        for name in PUBLISHED:
            assert [port["host_ip"] for port in model[name]["ports"]] == ["127.0.0.1"]


def test_addresses_can_be_opened_one_by_one() -> None:
    chosen = {"PROXY_BIND": "0.0.0.0", "PROMETHEUS_BIND": "10.0.0.1", "GRAFANA_BIND": "10.0.0.2"}
    model = compose(API_PORT="9000", **chosen)["services"]
    assert [(p["host_ip"], p["published"]) for p in model["proxy"]["ports"]] == [
        ("0.0.0.0", "9000")
    ]
    assert [p["host_ip"] for p in model["prometheus"]["ports"]] == ["10.0.0.1"]
    assert [p["host_ip"] for p in model["grafana"]["ports"]] == ["10.0.0.2"]


def test_stores_meet_the_api_and_nobody_else() -> None:
    for engine in ENGINES:
        model = compose(ENGINE=engine)
        networks = {n: set(s.get("networks") or {}) for n, s in model["services"].items()}
        assert {n for n, joined in networks.items() if "stores" in joined} == {
            "api", "migrate", "redis-cache", "redis-ledger", "postgres",
        }  # fmt: skip
        assert networks["postgres"] == networks["migrate"] == {"stores"}
        assert networks["redis-cache"] == networks["redis-ledger"] == {"stores"}
        assert model["networks"]["stores"]["internal"] is True
        assert model["services"]["redis-cache"]["networks"]["stores"]["aliases"] == ["redis"]


def test_no_secret_stands_in_an_environment(stacks: list) -> None:
    for _, name, service in stacks:
        for variable, value in environment(service).items():
            if re.search(r"PASSWORD|KEY|TOKEN$|SECRET|REDIS_URL|DATABASE_URL|PEPPER", variable):
                assert not value or variable.endswith("_FILE"), f"{name}: {variable}"


def test_api_environment_holds_settings_that_exist() -> None:
    known = {variable.name for variable in variables()} | OF_LIBRARIES
    known |= {f"{variable.name}_FILE" for variable in variables() if variable.is_secret}
    model = compose()["services"]
    for name in ("api", "index", "migrate"):
        assert set(environment(model[name])) - known == set()


@pytest.mark.parametrize("drain", ["10", "0.5", "90.0"])
def test_api_is_stopped_after_its_drain_and_the_proxy_after_the_api(drain: str) -> None:
    model = compose(API_DRAIN_SECONDS=drain)["services"]
    api, proxy = (seconds(model[name]["stop_grace_period"]) for name in ("api", "proxy"))
    assert environment(model["api"])["API_DRAIN_SECONDS"] == drain
    assert float(drain) + 5 < api < proxy


def test_redis_roles_evict_and_keep_as_they_should() -> None:
    model = compose()["services"]
    cache, ledger = (" ".join(model[f"redis-{role}"]["command"]) for role in ("cache", "ledger"))
    assert "--maxmemory 256mb --maxmemory-policy allkeys-lru --save 300 100" in cache
    assert "--maxmemory-policy noeviction --appendonly yes" in ledger
