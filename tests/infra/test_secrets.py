"""infra/make-secrets.sh: made once, hidden, and all that services name."""

import re
import stat
import subprocess
from pathlib import Path

from tests.infra.tools import INFRA, ROOT


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
