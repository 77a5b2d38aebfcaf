"""A key's secret shows up nowhere: not in logs, errors, values, nor in what Redis is sent."""

import asyncio
import logging
import traceback

import pytest

from api.admission.keys import KeySpec, new_api_key
from api.admission.refusals import KeysDown
from api.errors import RagError
from tests.admission.doors import API_KEY, ask, limited, opened
from tests.support.servers import RedisServer


def test_secrets_show_up_nowhere(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []
    texts: list[str] = []

    async def note(door, key: object) -> None:
        texts.append(key.decode() if isinstance(key, bytes) else str(key))
        try:
            admitted = await ask(door, key)
            seen.extend([repr(admitted), str(admitted.headers())])
        except RagError as exc:
            seen.extend([repr(exc), str(exc), *traceback.format_exception(exc)])

    async def scenario() -> None:
        rules = limited(3, fail_mode="open", failures_per_minute=3)
        async with opened(server, rules, timeout_s=1.0) as (door, keys):
            made = await keys.create(KeySpec(name="canary"))
            rotated = await keys.rotate(made.key.id, grace_s=60)
            revoked = await keys.create(KeySpec(name="canary"))
            await keys.revoke(revoked.key.id)
            seen.extend([repr(made), repr(rotated), repr(await keys.page()), repr(door.state())])
            for _ in range(4):
                for key in (made.key.text(), rotated.key.text(), revoked.key.text(), API_KEY):
                    await note(door, key)
            mistyped = str(made.key.text())[:-1]
            guess = "canary-guess-0123456789"
            for key in (new_api_key(made.key.id).text(), new_api_key().text(), mistyped, guess):
                await note(door, key)
            sent = keys._calls.redis.sent
            seen.extend(repr(command) for command in sent)
            assert len(sent) > 20
            server.kill()
            for key in (made.key.text(), new_api_key().text(), guess):
                await note(door, key)
            with pytest.raises(KeysDown) as down:
                await keys.create(KeySpec(name="canary"))
            seen.extend(traceback.format_exception(down.value))

    with caplog.at_level(logging.DEBUG):
        asyncio.run(scenario())
    seen.extend(record.getMessage() + repr(record.__dict__) for record in caplog.records)
    assert caplog.records
    secrets = {part for text in texts for part in (text, text.rpartition("_")[2][:43])}
    shown = "\n".join(seen)
    assert [secret for secret in secrets if secret in shown] == []
    assert "canary" in shown  # the name: what is looked for would have been found
