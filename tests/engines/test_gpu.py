"""GET /health/gpu over exporters of our own."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.engine import FakeEngine
from tests.support.harness import live, settings_for

DCGM = b"""# TYPE DCGM_FI_DEV_FB_USED gauge
DCGM_FI_DEV_FB_USED{gpu="0"} 4096
DCGM_FI_DEV_FB_FREE{gpu="0"} 2048
DCGM_FI_DEV_GPU_UTIL{gpu="0"} 87
"""
NVIDIA_SMI = b"""nvidia_smi_memory_used_bytes{uuid="a"} 4294967296
nvidia_smi_memory_total_bytes{uuid="a"} 6442450944
nvidia_smi_utilization_gpu_ratio{uuid="a"} 0.87
"""


@contextmanager
def exporter(body: bytes) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("body", [DCGM, NVIDIA_SMI], ids=["dcgm", "nvidia_smi"])
def test_gpu_memory_is_told_in_bytes(engine: FakeEngine, index_dir: Path, body: bytes) -> None:
    with exporter(body) as url:
        settings = settings_for(engine.url, index_dir, engine={"gpu_exporter_url": url})
        with live(settings, wait=False) as (client, _):
            answered = client.get("/health/gpu")
    assert answered.status == 200
    assert answered.json()["gpu"] == {
        "used_bytes": 4 << 30,
        "total_bytes": 6 << 30,
        "utilisation": 0.87,
    }


@pytest.mark.parametrize("body", [None, b"up 1\n", b"{no exposition"])
def test_gpu_unknown_is_503_with_the_reason(
    engine: FakeEngine, index_dir: Path, body: bytes | None
) -> None:
    with exporter(body or b"") as url:
        settings = settings_for(
            engine.url, index_dir, engine={"gpu_exporter_url": url if body else ""}
        )
        with live(settings, wait=False) as (client, _):
            answered = client.get("/health/gpu")
    assert answered.status == 503
    assert answered.json()["gpu"] is None
    assert answered.json()["reason"]
