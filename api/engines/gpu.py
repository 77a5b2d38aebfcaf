"""Read GPU memory and load from a Prometheus exporter: the API itself never touches NVML."""

import asyncio

import aiohttp
import msgspec
from prometheus_client.parser import text_string_to_metric_families

TIMEOUT_S = 2.0
MAX_BYTES = 5_000_000
MIB = 1 << 20


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """All cards of an exporter together."""

    used_bytes: int
    total_bytes: int
    utilisation: float | None = None
    """0..1."""


class NoGpu(Exception):
    """Why nothing is known of a GPU, in a few words."""


async def read_gpu(session: aiohttp.ClientSession, url: str) -> Gpu:
    """Return the memory of all cards of the exporter at `url` together. Raises NoGpu.

    Reads DCGM's exporter and nvidia_gpu_exporter.
    """
    if not url:
        raise NoGpu("ENGINE_GPU_EXPORTER_URL is not set")
    try:
        async with asyncio.timeout(TIMEOUT_S), session.get(f"{url.rstrip('/')}/metrics") as answer:
            text = (await answer.content.read(MAX_BYTES)).decode()
        found = _totals(text)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as exc:
        raise NoGpu("the GPU exporter does not answer") from exc
    if "DCGM_FI_DEV_FB_USED" in found:
        used, free = found["DCGM_FI_DEV_FB_USED"], found.get("DCGM_FI_DEV_FB_FREE", 0.0)
        total = used + free + found.get("DCGM_FI_DEV_FB_RESERVED", 0.0)
        return Gpu(
            used_bytes=int(used * MIB),
            total_bytes=int(total * MIB),
            utilisation=_share(found.get("DCGM_FI_DEV_GPU_UTIL"), 100),
        )
    if "nvidia_smi_memory_used_bytes" in found:
        return Gpu(
            used_bytes=int(found["nvidia_smi_memory_used_bytes"]),
            total_bytes=int(found.get("nvidia_smi_memory_total_bytes", 0)),
            utilisation=_share(found.get("nvidia_smi_utilization_gpu_ratio"), 1),
        )
    raise NoGpu("the exporter knows no GPU")


def _totals(text: str) -> dict[str, float]:
    """The sum over the cards of every metric. Raises ValueError for what is no exposition."""
    totals: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
    return totals


def _share(value: float | None, whole: float) -> float | None:
    return None if value is None else round(min(1.0, value / whole), 3)
