"""Which pages of other sites may ask: CORS headers for browsers, and a refusal of all others."""

from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import urlsplit

from litestar.config.cors import CORSConfig

from api.errors import Forbidden


@lru_cache(maxsize=8)
def _origins(setting: str) -> list[str]:
    """Return the origins of API_CORS_ORIGINS; "*" stands for all."""
    return [origin.strip() for origin in setting.split(",") if origin.strip()]


def cors_config(setting: str) -> CORSConfig | None:
    """Return what the framework answers other sites' browsers with; None where no site may ask."""
    if not _origins(setting):
        return None
    return CORSConfig(
        allow_origins=_origins(setting),
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=[
            "Content-Type",
            "X-API-Key",
            "X-Request-ID",
            "Authorization",
            "Idempotency-Key",
            "Last-Event-ID",
        ],
        expose_headers=["X-Request-ID", "Retry-After", "X-Resume-ID"],
    )


def refuse_other_sites(method: str, headers: Mapping[str, str], setting: str) -> None:
    """Raise Forbidden for a change that a browser makes on behalf of another site's page.

    CORS does not stop those: a form with files needs no preflight, so any page could upload into a
    ragrelay without keys. `headers` are those of a request with an Origin.
    """
    allowed = _origins(setting)
    if method == "GET" or headers["origin"] in allowed or "*" in allowed:
        return
    site = headers.get("sec-fetch-site")
    if site is None:  # an old browser
        is_own = urlsplit(headers["origin"]).netloc == headers.get("host")
        site = "same-origin" if is_own else "cross-site"
    if site not in ("same-origin", "none"):
        raise Forbidden("pages of other sites may ask only from API_CORS_ORIGINS")
