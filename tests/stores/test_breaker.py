import logging

import pytest

from api.stores.breaker import Breaker


def test_breaker_opens_probes_once_and_closes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="ragrelay")
    now = 0.0
    breaker = Breaker("cache", clock=lambda: now)
    for _ in range(2):
        breaker.failed(OSError())
    assert breaker.allows()
    breaker.succeeded()
    for _ in range(3):
        breaker.failed(OSError())
    assert breaker.is_open
    assert not breaker.allows()
    now = 5.0
    assert breaker.allows()
    assert not breaker.allows()  # the others wait for the probe
    breaker.failed(OSError())
    now = 9.9
    assert not breaker.allows()
    now = 10.0
    assert breaker.allows()
    breaker.succeeded()
    assert breaker.allows()
    assert [r.message for r in caplog.records] == ["store does not answer", "store is back"]
