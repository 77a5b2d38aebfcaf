"""`python -m api.cli.healthcheck [URL]`: is the server here ready? For images that have no curl.

Uses only the standard library: it is started every few seconds. Exit codes: 0 ready, 1 not.
"""

import http.client
import sys
from urllib.parse import urlsplit

READY = "http://127.0.0.1:8000/health/ready"
TIMEOUT_S = 8.0
"""Below the 10 s that the image's HEALTHCHECK waits."""


def ask(url: str) -> tuple[bool, str]:
    """Return whether `url` answers 200, and the answer or what is in its way, on one line."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.netloc, timeout=TIMEOUT_S)
    try:
        connection.request("GET", address.path or "/")
        response = connection.getresponse()
        body = response.read(4096).decode(errors="replace")
    except (OSError, http.client.HTTPException) as exc:
        return False, f"{url}: {str(exc) or type(exc).__name__}"
    finally:
        connection.close()
    return response.status == 200, f"{response.status} {' '.join(body.split())}"


if __name__ == "__main__":
    ready, told = ask(*(sys.argv[1:2] or [READY]))
    print(told)
    sys.exit(not ready)
