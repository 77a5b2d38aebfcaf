"""The experiment's file: who gets which variant, and mistakes in it."""

from collections import Counter
from pathlib import Path

import pytest

from api.settings.env import SettingsError
from tests.answering.experimenting import TWO, load


def test_shares_follow_the_weights(experiment_file: Path) -> None:
    experiment_file.write_text(TWO.replace('name = "b"', 'name = "b"\nweight = 3'))
    experiment = load(experiment_file)
    counts = Counter(experiment.assigned(f"key{n}").name for n in range(2000))
    assert 1420 <= counts["b"] <= 1580  # 1500 expected, four standard deviations to each side
    assert counts.total() == 2000


def test_assignment_is_sticky_and_another_experiment_assigns_anew(experiment_file: Path) -> None:
    def assigned() -> list[str]:
        experiment = load(experiment_file)
        return [experiment.assigned(f"key{n}").name for n in range(200)]

    first = assigned()
    assert assigned() == first
    experiment_file.write_text(TWO.replace("shorter", "longer"))
    assert assigned() != first


def test_assignment_is_pinned_for_replicas_and_releases_to_come(experiment_file: Path) -> None:
    assert "".join(load(experiment_file).assigned(f"key{n}").name for n in range(12)) == PINNED


PINNED = "bbaaabbababa"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('name = "shorter"', "", "name"),
        ('name = "shorter"', 'name = "two words"', "experiment.name"),
        ('"conversation"', '"user"', "experiment.sticky"),
        ('name = "b"', 'name = "a"', "experiment.variants[1].name: 'a' is there twice"),
        ("top_k = 1", "top_k = 21", "<= 20 - at `experiment.variants[1].top_k`"),
        ("top_k = 1", "topk = 1", "unknown field `topk` - at `experiment.variants[1]`"),
        ("top_k = 1", "weight = 0", ">= 1 - at `experiment.variants[1].weight`"),
        ("0.7", "2.5", "<= 2.0 - at `experiment.variants[1].temperature`"),
        ("0.7", "nan", ">= 0.0 - at `experiment.variants[1].temperature`"),
        ("0.7", "inf", "experiment.variants[1].temperature"),
        ("max_tokens = 9", "max_tokens = 1025", "<= 1024 - at `experiment.variants[1].max_tokens`"),
        ("top_k = 1", 'engine = "vllm"', "variants[1].engine: must be one of llamacpp"),
        ("b.txt", "c.txt", "prompt_file of 'b': cannot read"),
        ('name = "a"\n[[experiment.variants]]\n', "", "length >= 2 - at `experiment.variants`"),
        ("top_k = 1", "top_k = ", "line"),
    ],
)
def test_mistake_in_the_file_is_named(experiment_file: Path, old: str, new: str, says: str) -> None:
    assert old in TWO
    experiment_file.write_text(TWO.replace(old, new))
    with pytest.raises(SettingsError) as raised:
        load(experiment_file)
    assert str(raised.value).startswith("EXPERIMENTS_FILE: ")
    assert says in str(raised.value)


def test_file_that_is_missing_blank_or_too_large_is_named(experiment_file: Path) -> None:
    (experiment_file.parent / "b.txt").write_text(" \n")
    with pytest.raises(SettingsError, match="prompt_file of 'b': is blank"):
        load(experiment_file)
    (experiment_file.parent / "b.txt").write_bytes(b"\xff")
    with pytest.raises(SettingsError, match="prompt_file of 'b': cannot read"):
        load(experiment_file)
    experiment_file.write_text("#" * 100_001)
    with pytest.raises(SettingsError, match="larger than 100000 bytes"):
        load(experiment_file)
    experiment_file.unlink()
    with pytest.raises(SettingsError, match="EXPERIMENTS_FILE: cannot read"):
        load(experiment_file)


def test_example_of_the_docs_loads(experiment_file: Path) -> None:
    docs = Path("docs/operating.md").read_text()
    experiment_file.write_text(docs.partition("```toml\n")[2].partition("```")[0])
    (experiment_file.parent / "short.txt").write_text("Answer as briefly as you can.")
    urls = {"urls": "vllm=http://127.0.0.1:1,vllm=http://127.0.0.1:2", "kind": "embedded"}
    b = load(experiment_file, engine=urls).variants[1]
    assert (b.name, b.engine) == ("b", "vllm-2")
    assert b.changes == {"top_k": 5, "temperature": 0.0, "max_tokens": 60}
