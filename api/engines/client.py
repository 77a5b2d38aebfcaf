"""Client of an LLM engine: send a prompt, yield the answer's text as it is generated.

TGI, vLLM, SGLang and llama.cpp share the OpenAI chat route; here its stream becomes text
pieces and one Finish, and everything else becomes one of our errors. A stream is a whole answer
only if it carried a finish reason: engines may end an aborted one with `[DONE]`.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp
import msgspec

from api import sse
from api.engines.dialects import DIALECTS, FINISH_REASONS, Fact
from api.engines.errors import failed, message_of, refused
from api.engines.silence import Silence
from api.errors import (
    DeadlineExceeded,
    EngineDisconnect,
    EngineDown,
    EngineFailed,
    EngineSilent,
    RagError,
)
from api.health import Check
from api.telemetry.record import traceparent
from api.usage import Usage


class EngineLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How long the engine may take, in seconds."""

    connect_s: float
    first_token_s: float
    token_s: float


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How the engine is to generate."""

    max_tokens: int
    temperature: float


class Finish(msgspec.Struct, frozen=True):
    """The end of a whole answer. `usage` is None where the engine reported none."""

    finish_reason: str
    usage: Usage | None


def engine_session() -> aiohttp.ClientSession:
    """Return a session for engines, to be closed by the caller.

    A connection a request: an answer's connection is closed with it anyway, and a POST on a kept
    one may meet an engine that is just closing it.
    """
    connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=30, force_close=True)
    return aiohttp.ClientSession(connector=connector, auto_decompress=False)


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_chunks = msgspec.json.Decoder(_Chunk)
_encoder = msgspec.json.Encoder()


_CHECK_TIMEOUT = aiohttp.ClientTimeout(total=2.0)
_ERROR_BODY_BYTES = 4096
_FACTS_BYTES = 1 << 20


class Engine:
    """One engine in its dialect. `session` is ours to use, not to close."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        kind: str,
        url: str,
        model: str,
        api_key: str = "",
        name: str = "",
        limits: EngineLimits,
    ) -> None:
        self.name = name or kind
        self.model = model
        """What serves: as configured, until the engine has told its own."""
        self.context_tokens: int | None = None
        """Prompt and answer together; None until the engine has told."""
        self.in_flight = 0
        self._session = session
        self._url = url
        self._dialect = DIALECTS[kind]
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._limits = limits
        self._was_up = False

    async def check(self) -> Check:
        """Ask whether the engine is there and has its model loaded; learn about it if it is new."""
        started = time.monotonic()
        try:
            async with self._get(self._dialect.health) as response:
                status = response.status
            is_up = status == 200
            if is_up and not self._was_up:
                await self._learn()
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            self._was_up = False
            return Check("down", detail=type(exc).__name__)
        self._was_up = is_up
        ms = round((time.monotonic() - started) * 1000, 1)
        return Check("ok", ms) if is_up else Check("down", ms, f"HTTP {status}")

    async def stream(
        self,
        messages: list[dict[str, str]],
        sampling: Sampling,
        *,
        request_id: str,
        deadline: float,
    ) -> AsyncGenerator[str | Finish]:
        """Yield the answer's text as it comes, then its Finish.

        `deadline` is a time of the event loop. Closing the generator closes the connection,
        which makes the engine stop. Raises the Engine… errors, PromptTooLong, DeadlineExceeded.
        """
        loop = asyncio.get_running_loop()
        decoder = sse.Decoder()
        finish_reason: str | None = None
        usage: Usage | None = None
        response: aiohttp.ClientResponse | None = None
        silence: Silence | None = None
        self.in_flight += 1
        try:
            response = await self._open(self._body(messages, sampling), request_id, deadline)
            silence = Silence(response.content, loop.time() + self._limits.first_token_s, deadline)
            while chunk := await response.content.readany():
                for data in decoder.feed(chunk):
                    if data == b"[DONE]":
                        yield _finish(finish_reason, usage)
                        return
                    event = _chunks.decode(data)
                    if event.error is not None:
                        raise failed(message_of(event.error))
                    if event.usage is not None:
                        usage = Usage(
                            prompt_tokens=event.usage.prompt_tokens,
                            completion_tokens=event.usage.completion_tokens,
                        )
                    if event.choices:
                        choice = event.choices[0]
                        finish_reason = choice.finish_reason or finish_reason
                        if choice.delta is not None and choice.delta.content:
                            # A comment does not move the limit: only text does.
                            silence.limit = loop.time() + self._limits.token_s
                            yield choice.delta.content
            yield _finish(finish_reason, usage)
        except (msgspec.DecodeError, UnicodeDecodeError, sse.FrameTooLong) as exc:
            raise EngineFailed("the engine sent something that is no answer") from exc
        except TimeoutError as exc:
            raise self._late(deadline) from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise EngineDisconnect("the engine broke the answer off") from exc
        finally:
            self.in_flight -= 1
            if silence is not None:
                silence.stop()
            if response is not None:
                response.close()  # not release(): an unread rest must not be waited for

    def _body(self, messages: list[dict[str, str]], sampling: Sampling) -> bytes:
        body: dict[str, Any] = {
            "messages": messages,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self._dialect.sampling,
        }
        if self._dialect.asks_for != "nothing":
            body["model"] = self.model
        return _encoder.encode(body)

    async def _learn(self) -> None:
        """Read the served model and the context size; keep what was known of what is not told."""
        model = await self._ask(self._dialect.model)
        context_tokens = await self._ask(self._dialect.context)
        if isinstance(model, str) and model:
            self.model = model
        if isinstance(context_tokens, int) and context_tokens > 0:
            self.context_tokens = context_tokens

    async def _ask(self, fact: Fact | None) -> Any:
        if fact is None:
            return None
        async with self._get(fact.path) as response:
            body = await response.content.read(_FACTS_BYTES)
        try:
            return fact.find(msgspec.json.decode(body))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    def _get(self, path: str) -> Any:
        return self._session.get(
            f"{self._url}{path}", headers=self._headers, timeout=_CHECK_TIMEOUT
        )

    async def _open(self, body: bytes, request_id: str, deadline: float) -> aiohttp.ClientResponse:
        loop = asyncio.get_running_loop()
        limit = min(deadline, loop.time() + self._limits.first_token_s)
        try:
            async with asyncio.timeout_at(limit):
                response = await self._session.post(
                    f"{self._url}/v1/chat/completions",
                    data=body,
                    headers={
                        "Content-Type": "application/json",
                        "Accept-Encoding": "identity",
                        "X-Request-ID": request_id,
                        **({"traceparent": trace} if (trace := traceparent.get()) else {}),
                        **self._headers,
                    },
                    timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._limits.connect_s),
                )
                if response.status != 200:
                    with_body = await response.content.read(_ERROR_BODY_BYTES)
                    response.close()
                    raise refused(self._dialect, response.status, with_body)
        except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError) as exc:
            raise EngineDown(f"no engine answers ({self.name})") from exc
        except TimeoutError as exc:
            raise self._late(deadline) from exc
        except aiohttp.ClientError as exc:
            raise EngineDown(f"the engine closed the connection ({self.name})") from exc
        return response

    def _late(self, deadline: float) -> RagError:
        if asyncio.get_running_loop().time() >= deadline:
            return DeadlineExceeded("the answer took longer than API_DEADLINE_SECONDS")
        return EngineSilent(f"the engine sent no token in time ({self.name})")


def _finish(finish_reason: str | None, usage: Usage | None) -> Finish:
    if finish_reason is None:
        raise EngineDisconnect("the engine ended the answer without saying that it is whole")
    return Finish(FINISH_REASONS.get(finish_reason, finish_reason), usage)
