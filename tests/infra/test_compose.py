"""compose.yaml as real Compose resolves it: every engine, every override, and what each container
may do. Nothing here runs a container.
"""

import os
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.settings.env import ENGINE_URLS, variables
from tests.infra.tools import ENGINES, INFRA, ROOT, compose, compose_yaml, run, unescaped

COMPOSE_FILES = sorted(
    [ROOT / "compose.yaml", *INFRA.glob("compose.*.yaml"), *INFRA.glob("engine-*.yaml")]
)
OVERRIDES = ("infra/compose.gpu.yaml", "infra/compose.hybrid.yaml")
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


def services() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (engine, name, service) of every stack that compose.yaml can be."""
    for engine in ENGINES:
        for name, service in compose(ENGINE=engine)["services"].items():
            yield engine, name, service
    for override in OVERRIDES:
        for name, service in compose(override)["services"].items():
            yield "tgi", name, service


@pytest.fixture(scope="module")
def stacks() -> list[tuple[str, str, dict[str, Any]]]:
    return list(services())


def environment(service: dict[str, Any]) -> dict[str, str | None]:
    return dict(service.get("environment") or {})


def seconds(duration: str) -> float:
    units = {"h": 3600, "m": 60, "s": 1}
    return sum(float(n) * units[unit] for n, unit in re.findall(r"([\d.]+)([hms])", duration))


# --- files


@pytest.mark.parametrize("path", COMPOSE_FILES, ids=lambda path: path.name)
def test_compose_file_follows_the_schema(path: Path) -> None:
    done = run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_files_have_no_lint() -> None:
    done = run("dclint", "-c", INFRA / "dclint.yaml", *COMPOSE_FILES, INFRA / "hardened.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "problem" not in done.stdout


def test_dockerfile_has_no_lint() -> None:
    done = run("hadolint", INFRA / "Dockerfile")
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_variables_are_all_in_env_example() -> None:
    """What a user may set stands in .env.example, a secret of the API under its plain name."""
    used: dict[str, str] = {}
    for path in COMPOSE_FILES:
        text = re.sub(r"#.*|\$\$\w+|\$\$\(.*", "", path.read_text())
        used |= dict.fromkeys(re.findall(r"\$\{(\w+)", text), path.name)
    shown = set(re.findall(r"^#(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    shown |= {f"{variable.name}_FILE" for variable in variables() if variable.is_secret}
    assert {name: file for name, file in used.items() if name not in shown} == {}


def test_env_example_shows_compose_variables_with_the_defaults_in_use() -> None:
    text = (ROOT / ".env.example").read_text().partition("# For compose.yaml alone")[2]
    shown = dict(re.findall(r"^#(\w+)=(.*)$", text, re.MULTILINE))
    assert shown
    used = "".join(path.read_text() for path in COMPOSE_FILES)
    for name, default in shown.items():
        found = set(re.findall(r"\$\{" + name + r":-([^}]*)\}", used))
        passed_on = re.search(rf"^ +{name}:$", used, re.MULTILINE)
        assert found or passed_on, f"{name} is used nowhere"
        assert default == "" or found == {default}, name


# --- what starts


@pytest.mark.parametrize("engine", ENGINES)
def test_engine_choice_starts_its_engine_and_tells_the_api(engine: str) -> None:
    model = compose(ENGINE=engine)["services"]
    assert environment(model["api"])["ENGINE"] == engine
    assert ("engine" in model) == (engine != "openai")
    if engine in ENGINE_URLS and "engine" in model:
        # Prometheus finds it by this second name, at the port where the API asks.
        assert model["engine"]["networks"]["engine"]["aliases"] == [engine]
        port = ENGINE_URLS[engine].rsplit(":", 1)[1]
        assert f":{port}/health" in unescaped(model["engine"]["healthcheck"]["test"])
        (config,) = (
            entry
            for job in compose_yaml("infra/prometheus/prometheus.yml")["scrape_configs"]
            for entry in job.get("dns_sd_configs", [])
            if entry["names"] == [engine]
        )
        assert str(config["port"]) == port


def test_fresh_clone_starts_everything_with_tgi() -> None:
    model = compose()["services"]
    always = {name for name, service in model.items() if not service.get("profiles")}
    assert always == {
        "init", "index", "migrate", "api", "engine", "redis-cache", "redis-ledger", "postgres",
        "proxy", "prometheus", "grafana",
    }  # fmt: skip
    assert "text-generation-inference" in model["engine"]["image"]


def test_api_waits_for_nothing_but_its_secrets_and_tables() -> None:
    model = compose()["services"]
    waits_for = {
        (name, other): how["condition"]
        for name in ("api", "migrate")
        for other, how in model[name]["depends_on"].items()
    }
    assert waits_for == {
        ("api", "init"): "service_completed_successfully",
        ("api", "migrate"): "service_completed_successfully",
        ("migrate", "init"): "service_completed_successfully",
        ("migrate", "postgres"): "service_healthy",
    }


def test_engine_unknown_is_refused_by_name() -> None:
    done = run("docker-compose", "--env-file", "/dev/null", "config", ENGINE="ollama")
    assert done.stdout == ""
    assert "engine-ollama.yaml" in done.stderr


@pytest.mark.parametrize(
    ("set_by_user", "quantize"),
    [({}, "bitsandbytes-nf4"), ({"PIPELINE_LOAD_IN_4BIT": "false"}, None)],
)
def test_tgi_gets_its_options_from_the_pipeline(
    set_by_user: dict[str, str], quantize: str | None
) -> None:
    """The container's command, run with `env` in place of TGI's entrypoint."""
    changed = {"PIPELINE_MODEL_NAME": "some/model", "PIPELINE_CONTEXT_TOKENS": "2048"}
    engine = compose(ENGINE="tgi", **changed, **set_by_user)["services"]["engine"]
    (script,) = engine["command"]
    shown = subprocess.run(
        [*engine["entrypoint"], unescaped(script).replace("exec /tgi-entrypoint.sh", "exec env")],
        env={"PATH": os.environ["PATH"], **{k: v for k, v in environment(engine).items() if v}},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    seen = dict(line.split("=", 1) for line in shown.stdout.splitlines())
    assert (seen["MODEL_ID"], seen.get("QUANTIZE")) == ("some/model", quantize)
    assert (seen["MAX_TOTAL_TOKENS"], seen["MAX_INPUT_TOKENS"]) == ("2048", "2047")
    assert seen["USAGE_STATS"] == "off"


def test_hybrid_leaves_the_api_to_the_host_and_opens_the_rest_to_it() -> None:
    model = compose("infra/compose.hybrid.yaml")["services"]
    assert {name for name, service in model.items() if "never" in service.get("profiles", [])} == {
        "api", "index", "proxy",
    }  # fmt: skip
    for name in ("engine", "redis-cache", "redis-ledger", "postgres"):
        assert {port["host_ip"] for port in model[name]["ports"]} == {"127.0.0.1"}


def test_gpu_override_moves_api_and_index_to_the_card() -> None:
    model = compose("infra/compose.gpu.yaml")["services"]
    for name in ("api", "index"):
        assert model[name]["build"]["target"] == "gpu"
        assert environment(model[name])["RETRIEVAL_DEVICE"] == "cuda"
        assert model[name]["deploy"]["resources"]["reservations"]["devices"]


# --- what each container may do


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


# --- secrets


def make_secrets(folder: Path) -> None:
    subprocess.run(["sh", INFRA / "make-secrets.sh", folder], check=True)


def test_secrets_are_made_once_and_kept(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    values = [made[n].strip() for n in made if n.endswith(("-password", "-key", "-pepper"))]
    assert len(values) == len(set(values)) == 6
    assert all(re.fullmatch(r"[0-9a-f]{48}", value) for value in values)
    make_secrets(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == made


def test_secrets_are_hidden_from_others_but_grafanas_own(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    open_to_all = {p.name for p in tmp_path.iterdir() if p.stat().st_mode & stat.S_IROTH}
    assert open_to_all == {"grafana-password"}


def test_secrets_that_services_name_are_made(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    named = set(re.findall(r"/run/secrets/([\w.-]+)", (ROOT / "compose.yaml").read_text()))
    assert named <= {path.name for path in tmp_path.iterdir()}


# --- image


def test_dockerfile_builds_what_compose_asks_for_and_checks_it_last() -> None:
    text = (INFRA / "Dockerfile").read_text()
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]
    by_name = {stage.split()[2]: stage for stage in stages}
    assert list(by_name)[-1] == "cpu", "the last stage is the one that is built by default"
    for target in ("cpu", "gpu"):
        lines = by_name[target].strip().splitlines()
        assert "USER 10001:10001" in lines
        assert lines[-1] == 'RUN ["ragrelay", "selftest"]'
    assert 'CMD ["python", "-m", "api.cli.healthcheck"]' in by_name["run"]
    assert 'CMD ["ragrelay", "serve"]' in by_name["run"]


def test_build_context_holds_what_the_image_copies() -> None:
    kept = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert all((ROOT / name).exists() for name in kept)
    copied = re.findall(r"^COPY ((?!--from|<<).+) \S+$", (INFRA / "Dockerfile").read_text(), re.M)
    assert {name for line in copied for name in line.split() if name != "."} <= set(kept)
    assert ".env" not in kept and "index" not in kept
