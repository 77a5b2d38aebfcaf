"""compose.yaml as real Compose resolves it: every engine, every override, and what each container
may do. Nothing here runs a container.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

from api.settings.env import ENGINE_URLS, variables
from tests.infra.stacks import COMPOSE_FILES, environment
from tests.infra.tools import ENGINES, INFRA, ROOT, compose, compose_yaml, run, unescaped

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
