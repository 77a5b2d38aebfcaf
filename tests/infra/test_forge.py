"""What the forge reads: workflows, issue forms, updates of dependencies, hooks before a commit."""

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from tests.infra.tools import INFRA, ROOT, run

FORGE = ROOT / ".github"
WORKFLOWS = sorted(FORGE.glob("workflows/*.yml"))
SCHEMAS = {
    **dict.fromkeys(WORKFLOWS, "github-workflows"),
    **dict.fromkeys(sorted(FORGE.glob("ISSUE_TEMPLATE/*.yml")), "github-issue-forms"),
    FORGE / "ISSUE_TEMPLATE/config.yml": "github-issue-config",
    FORGE / "dependabot.yml": "dependabot",
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def workflow(name: str) -> dict[str, Any]:
    """Return a workflow; its triggers stand under True, which YAML 1.1 makes of `on`."""
    parsed: dict[str, Any] = yaml.safe_load((FORGE / f"workflows/{name}.yml").read_text())
    return parsed


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in workflow(name)["jobs"].values() for step in job.get("steps", [])]


def test_workflows_have_no_lint() -> None:
    done = run("actionlint", *WORKFLOWS)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: str(path.relative_to(FORGE)))
def test_forge_file_follows_its_schema(path: Path) -> None:
    done = run("check-jsonschema", "--builtin-schema", f"vendor.{SCHEMAS[path]}", path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit_beside_their_version(path: Path) -> None:
    used = re.findall(r"uses: (.+)", path.read_text())
    pinned = r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+|\./\.github/workflows/\w+\.yml"
    assert used
    assert [action for action in used if not re.fullmatch(pinned, action)] == []


def test_actions_have_one_commit_each() -> None:
    text = "".join(path.read_text() for path in WORKFLOWS)
    pins = set(re.findall(r"uses: (\S+)@(\S+)", text))
    assert len(pins) == len({name for name, _ in pins})


def test_ci_runs_the_script_that_developers_run() -> None:
    assert [step["run"] for step in steps("ci") if "run" in step] == [".ci/run"]
    makefile = (ROOT / "Makefile").read_text()
    called = re.findall(r"^run (\S+)$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert called
    assert [name for name in called if not re.search(rf"^{name}:", makefile, re.MULTILINE)] == []


def test_ci_pythons_are_supported_from_the_oldest_on() -> None:
    (job,) = workflow("ci")["jobs"].values()
    pythons = job["strategy"]["matrix"]["python"]
    supported = SpecifierSet(PROJECT["requires-python"])
    oldest = [int(part) for part in pythons[0].split(".")]
    assert all(supported.contains(python) for python in pythons)
    assert not supported.contains(f"{oldest[0]}.{oldest[1] - 1}")


def test_pull_requests_see_no_secret_and_may_write_nothing() -> None:
    ci = workflow("ci")
    assert set(ci[True]) == {"push", "pull_request", "workflow_call"}  # type: ignore[index]
    assert ci["permissions"] == {"contents": "read"}
    assert all("permissions" not in job for job in ci["jobs"].values())
    assert not re.search(r"secrets\b|github\.token", (FORGE / "workflows/ci.yml").read_text())


def test_release_gives_each_job_only_what_it_needs() -> None:
    release = workflow("release")
    assert release["permissions"] == {}
    assert {name: job["permissions"] for name, job in release["jobs"].items()} == {
        "ci": {"contents": "read"},
        "build": {"contents": "read"},
        "images": {"contents": "read", "packages": "write"},
        "tags": {"packages": "write"},
        "pypi": {"attestations": "write", "id-token": "write"},
        "page": {"contents": "write"},
    }
    assert "secrets." not in (FORGE / "workflows/release.yml").read_text()


def test_release_builds_targets_of_the_dockerfile_with_sbom_and_provenance() -> None:
    images = workflow("release")["jobs"]["images"]
    built = {(i["target"], i["arch"]) for i in images["strategy"]["matrix"]["include"]}
    assert built == {("cpu", "amd64"), ("cpu", "arm64"), ("gpu", "amd64")}
    stages = re.findall(r"^FROM \S+ AS (\S+)", (INFRA / "Dockerfile").read_text(), re.MULTILINE)
    assert {target for target, _ in built} <= set(stages)
    (build,) = [s["with"] for s in images["steps"] if "build-push-action" in s.get("uses", "")]
    assert (build["file"], build["sbom"], build["provenance"]) == (
        "infra/Dockerfile",
        True,
        "mode=max",
    )


def notes(folder: Path, *, tag: str, changelog: str) -> str | None:
    """Return what the release would say, or None where it would stop."""
    (step,) = [step for step in steps("release") if "> notes.md" in step.get("run", "")]
    (folder / "pyproject.toml").write_text('[project]\nversion = "1.2.0"\n')
    (folder / "CHANGELOG.md").write_text(changelog)
    done = subprocess.run(
        ["bash", "-e", "-c", step["run"]],
        cwd=folder,
        env={"PATH": os.defpath, "GITHUB_REF_NAME": tag},
    )
    return (folder / "notes.md").read_text() if done.returncode == 0 else None


def test_release_notes_are_the_section_of_the_version(tmp_path: Path) -> None:
    changelog = "# Changelog\n\n## Unreleased\n\n## 1.2.0 - 2026-12-01\n- Ours\n\n## 1.1.0\n- Old\n"
    assert notes(tmp_path, tag="v1.2.0", changelog=changelog) == "- Ours\n\n"


@pytest.mark.parametrize(
    ("tag", "changelog"),
    [
        ("v1.3.0", "## 1.2.0\n- Ours\n"),
        ("v1.2.0", "## Unreleased\n- Ours\n"),
        ("v1.2.0", "## 1.2.0\n\n## 1.1.0\n- Old\n"),
    ],
    ids=["another version", "no section", "empty section"],
)
def test_release_stops_where_tag_version_and_changelog_differ(
    tmp_path: Path, tag: str, changelog: str
) -> None:
    assert notes(tmp_path, tag=tag, changelog=changelog) is None


def test_hooks_run_the_pinned_ruff_and_the_projects_mypy() -> None:
    ruff, local = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    constraints = (ROOT / "constraints.txt").read_text()
    (pin,) = re.findall(r"^ruff==(\S+)$", constraints, re.MULTILINE)
    assert ruff["repo"].endswith("/ruff-pre-commit")
    assert ruff["rev"] == f"v{pin}"
    assert [hook["entry"] for hook in local["hooks"]] == [".venv/bin/mypy"]
