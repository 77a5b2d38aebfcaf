"""Settings: every variable has a bound, a description and a place in the documents."""

from pathlib import Path

import pytest

from api.settings.env import Settings, SettingsError, variables
from api.settings.types import Secret, read_model


def test_settings_nothing_set_are_the_documented_defaults() -> None:
    settings = Settings.from_env({})
    assert settings == Settings()
    assert settings.pipeline.model_name == "Qwen/Qwen2.5-3B-Instruct"
    assert (settings.pipeline.max_new_tokens, settings.pipeline.temperature) == (80, 0.1)
    assert settings.engine.kind == "embedded"
    assert settings.cache.redis_url == "redis://redis:6379/0"
    assert (settings.auth.enabled, settings.api.port) == (False, 8000)


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"API_PORT": "eighty"}, "API_PORT: Expected `int`"),
        ({"API_PORT": "65536"}, "API_PORT: Expected `int` <= 65535"),
        ({"API_DRAIN_SECONDS": "-1"}, "API_DRAIN_SECONDS"),
        ({"PIPELINE_TEMPERATURE": "2.5"}, "PIPELINE_TEMPERATURE: Expected `float` <= 2.0"),
        ({"PIPELINE_MAX_NEW_TOKENS": "1025"}, "PIPELINE_MAX_NEW_TOKENS"),
        ({"PIPELINE_PROMPT_FILE": "/no/such/file"}, "PIPELINE_PROMPT_FILE: no such file"),
        ({"ENGINE": "ollama"}, "ENGINE: Invalid enum value"),
        ({"ENGINE": "openai"}, "ENGINE_URL: required"),
        ({"ENGINE_URL": "http://x"}, "ENGINE: say which engine"),
        ({"ENGINE": "vllm", "ENGINE_URL": "x:8000"}, "ENGINE_URL: must begin with http"),
        ({"ENGINE_URLS": "http://x"}, "ENGINE_URLS: write tgi=URL"),
        ({"ENGINE_URLS": "ollama=http://x"}, "ENGINE_URLS: write tgi=URL"),
        ({"ENGINE_URLS": "tgi=x"}, "ENGINE_URLS: must begin with http"),
        ({"ENGINE_URLS": "tgi=http://x", "ENGINE": "vllm"}, "ENGINE_URLS: names the engines"),
        ({"AUTH_ENABLED": "true"}, "AUTH_API_KEY: required"),
        ({"AUTH_ENABLED": "perhaps"}, "AUTH_ENABLED: Expected `bool`"),
        ({"RETRIEVAL_FUSION": "sum"}, "RETRIEVAL_FUSION"),
        ({"RETRIEVAL_INDX_DIR": "x"}, "did you mean RETRIEVAL_INDEX_DIR?"),
        ({"PIPELINE_MAX_TOKENS_NEW": "5"}, None),
        ({"AUTH_API_KEYS": "x"}, "did you mean AUTH_API_KEY"),
        ({"ENGINE_API_KEY": "a", "ENGINE_API_KEY_FILE": "b"}, "both set"),
        ({"ENGINE_API_KEY_FILE": "/no/such"}, "ENGINE_API_KEY_FILE: cannot read"),
        ({"LIMIT_STREAM_PER_MINUTE": "5"}, "LIMIT_STREAM_PER_MINUTE: no longer a setting; LIMIT_Q"),
        ({"RETRIEVAL_RERANK_REVISION": "abc"}, "write RETRIEVAL_RERANK_MODEL=NAME@COMMIT"),
        ({"RETRIEVAL_RERANK_REVISION": ""}, None),
        ({"PATH": "/bin", "HOME": "/", "API_SERVICE_HOST": "10.0.0.1"}, None),
    ],
)
def test_settings_bad_value_stops_and_names_the_variable(
    environ: dict[str, str], says: str | None
) -> None:
    if says is None:
        Settings.from_env(environ)
        return
    with pytest.raises(SettingsError) as failure:
        Settings.from_env(environ)
    assert says in str(failure.value)


@pytest.mark.parametrize(
    ("name", "id", "revision"),
    [
        ("BAAI/bge-small-en-v1.5", "BAAI/bge-small-en-v1.5", None),
        ("BAAI/bge-small-en-v1.5@5c38ec7", "BAAI/bge-small-en-v1.5", "5c38ec7"),
        ("/models@home/bge", "/models@home/bge", None),
        ("", "", None),
    ],
)
def test_model_may_name_its_commit(name: str, id: str, revision: str | None) -> None:
    assert read_model(name) == (id, revision)


@pytest.mark.parametrize("value", ["true", "True", "TRUE", "1"])
def test_settings_booleans_are_read_in_any_case(value: str) -> None:
    assert Settings.from_env({"AUTH_ENABLED": value, "AUTH_API_KEY": "k"}).auth.enabled


def test_settings_empty_variable_counts_as_not_set() -> None:
    assert Settings.from_env({"API_PORT": "", "AUTH_API_KEY": ""}) == Settings()


def test_settings_secret_from_a_file_is_stripped(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret\n")
    settings = Settings.from_env({"AUTH_API_KEY_FILE": str(tmp_path / "key")})
    assert settings.auth.api_key == "s3cret"


def test_settings_secrets_do_not_show_themselves() -> None:
    settings = Settings.from_env({"AUTH_API_KEY": "canary", "CACHE_REDIS_URL": "redis://:canary@x"})
    assert "canary" not in repr(settings)
    assert repr(Secret("canary")) == "'***'"


def test_settings_bad_secret_is_not_repeated() -> None:
    with pytest.raises(SettingsError) as failure:
        Settings.from_env({"AUTH_API_KEY": "canary", "AUTH_API_KEY_FILE": "canary"})
    assert "canary" not in str(failure.value)


def test_settings_redis_url_is_the_fallback_of_the_cache() -> None:
    assert Settings.from_env({"REDIS_URL": "redis://a"}).cache.redis_url == "redis://a"
    both = {"REDIS_URL": "redis://a", "CACHE_REDIS_URL": "redis://b"}
    assert Settings.from_env(both).cache.redis_url == "redis://b"


@pytest.mark.parametrize(
    ("environ", "addresses"),
    [
        ({"ENGINE": "tgi"}, [("tgi", "tgi", "http://engine:80")]),
        ({"ENGINE": "vllm"}, [("vllm", "vllm", "http://engine:8000")]),
        ({"ENGINE": "vllm", "ENGINE_URL": "http://gpu:9/v1/"}, [("vllm", "vllm", "http://gpu:9")]),
        (
            {"ENGINE": "openai", "ENGINE_URL": "https://x.example"},
            [("openai", "openai", "https://x.example")],
        ),
        (
            {"ENGINE_URLS": "tgi=http://a, vllm=http://b/,vllm=http://c/v1"},
            [
                ("tgi", "tgi", "http://a"),
                ("vllm", "vllm", "http://b"),
                ("vllm-2", "vllm", "http://c"),
            ],
        ),
        ({}, []),
    ],
)
def test_settings_engine_addresses_follow_the_engines(
    environ: dict[str, str], addresses: list[tuple[str, str, str]]
) -> None:
    assert Settings.from_env(environ).engine_addresses() == addresses


def test_settings_every_variable_is_described_once() -> None:
    found = list(variables())
    assert len({variable.name for variable in found}) == len(found)
    assert all(len(variable.description) > 10 for variable in found)
