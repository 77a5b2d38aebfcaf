"""An experiment of two variants, as a file, and servers that run it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from api.answering.experiments import Experiment, load_experiment
from api.answering.prompt import PromptBuilder
from tests.support.engine import FakeEngine
from tests.support.harness import (
    Client,
    live,
    settings_for,
)

TWO = """
[experiment]
name = "shorter"
sticky = "conversation"
[[experiment.variants]]
name = "a"
[[experiment.variants]]
name = "b"
prompt_file = "b.txt"
top_k = 1
temperature = 0.7
max_tokens = 9
"""


def load(file: Path, **groups: Any) -> Experiment:
    groups["experiments"] = {"file": str(file)}
    settings = settings_for("http://127.0.0.1:1", file.parent, **groups)
    experiment = load_experiment(settings, PromptBuilder())
    assert experiment is not None
    return experiment


@contextmanager
def running(file: Path, engine: FakeEngine, index_dir: Path, /, **groups: Any) -> Iterator[Client]:
    groups["experiments"] = {"file": str(file)}
    with live(settings_for(engine.url, index_dir, **groups)) as (client, _):
        yield client


def question_of(file: Path, variant: str) -> str:
    """A question that gets this variant."""
    experiment = load(file)
    asked = (f"What is the capital of France? {n}" for n in range(100))
    return next(text for text in asked if experiment.assigned(text).name == variant)
