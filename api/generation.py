"""Client of the engine: the only place that knows what engines say on the wire.

TGI, vLLM, SGLang and llama.cpp share the OpenAI chat route; here its stream becomes text
pieces and one Finish, and everything else becomes a typed error. A stream is a whole answer
only if it carried a finish reason: engines may end an aborted one with `[DONE]`.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import aiohttp
import msgspec

from api import sse
from api.errors import (
    DeadlineExceeded,
    EngineAuth,
    EngineDisconnect,
    EngineDown,
    EngineFailed,
    EngineOverloaded,
    EngineSilent,
    PromptTooLong,
    RagError,
)
from api.schemas import Check, Usage


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How long the engine may take, in seconds."""

    connect_s: float
    first_token_s: float
    token_s: float


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    max_tokens: int
    temperature: float


class Finish(msgspec.Struct, frozen=True):
    """The end of a whole answer. `usage` is None where the engine reported none."""

    finish_reason: str
    usage: Usage | None


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

# The text is all that TGI gives in a stream: its http_status_code is 422 for every cause.
_OVERLOAD_SIGNS = ("overloaded", "queue", "too many requests", "rate limit")
_TOO_LONG_SIGNS = ("max_new_tokens", "context", "maximum", "too long", "inputs")
_FINISH_REASONS = {"stop_sequence": "stop", "eos_token": "stop"}
_CHECK_TIMEOUT = aiohttp.ClientTimeout(total=2.0)
_ERROR_BODY_BYTES = 4096


class Engine:
    """One engine. `session` is ours to use, not to close."""

    def __init__(
        self, session: aiohttp.ClientSession, *, name: str, model: str, url: str, api_key: str,
        limits: Limits,
    ) -> None:  # fmt: skip
        self.name = name
        self.model = model
        self._session = session
        self._url = url
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._limits = limits

    async def check(self) -> Check:
        """Ask whether the engine is there and has its model loaded."""
        started = time.monotonic()
        try:
            async with self._session.get(
                f"{self._url}/v1/models", headers=self._headers, timeout=_CHECK_TIMEOUT
            ) as response:
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            return Check("down", detail=type(exc).__name__)
        ms = round((time.monotonic() - started) * 1000, 1)
        return Check("ok", ms) if status == 200 else Check("down", ms, f"HTTP {status}")

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
        body = _encoder.encode(
            {
                "model": self.model,
                "messages": messages,
                "max_tokens": sampling.max_tokens,
                "temperature": sampling.temperature,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        )
        response = await self._open(body, request_id, deadline)
        try:
            async for piece in self._read(response, deadline):
                yield piece
        finally:
            response.close()  # not release(): an unread rest must not be waited for

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
                        **self._headers,
                    },
                    timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._limits.connect_s),
                )
                if response.status != 200:
                    with_body = await response.content.read(_ERROR_BODY_BYTES)
                    response.close()
                    raise _refused(response.status, with_body)
        except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError) as exc:
            raise EngineDown(f"no engine answers ({self.name})") from exc
        except TimeoutError as exc:
            raise self._late(deadline) from exc
        except aiohttp.ClientError as exc:
            raise EngineDown(f"the engine closed the connection ({self.name})") from exc
        return response

    async def _read(
        self, response: aiohttp.ClientResponse, deadline: float
    ) -> AsyncGenerator[str | Finish]:
        loop = asyncio.get_running_loop()
        decoder = sse.Decoder()
        finish_reason: str | None = None
        usage: Usage | None = None
        limit = loop.time() + self._limits.first_token_s
        while chunk := await self._receive(response, min(limit, deadline), deadline):
            for event in _events(decoder, chunk):
                if event is None:  # [DONE]
                    yield _finish(finish_reason, usage)
                    return
                if event.usage is not None:
                    usage = Usage(
                        prompt_tokens=event.usage.prompt_tokens,
                        completion_tokens=event.usage.completion_tokens,
                    )
                if event.choices:
                    choice = event.choices[0]
                    finish_reason = choice.finish_reason or finish_reason
                    if choice.delta is not None and choice.delta.content:
                        limit = loop.time() + self._limits.token_s
                        yield choice.delta.content
        yield _finish(finish_reason, usage)

    async def _receive(
        self, response: aiohttp.ClientResponse, limit: float, deadline: float
    ) -> bytes:
        """Return the next bytes, empty at the end. A comment does not move the limit."""
        try:
            async with asyncio.timeout_at(limit):
                return await response.content.readany()
        except TimeoutError as exc:
            raise self._late(deadline) from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise EngineDisconnect("the engine broke the answer off") from exc

    def _late(self, deadline: float) -> RagError:
        if asyncio.get_running_loop().time() >= deadline:
            return DeadlineExceeded("the answer took longer than API_DEADLINE_SECONDS")
        return EngineSilent(f"the engine sent no token in time ({self.name})")


def _events(decoder: sse.Decoder, chunk: bytes) -> Iterator[_Chunk | None]:
    """Yield parsed events, None for `[DONE]`. Raises for an error event or garbage."""
    try:
        for data in decoder.feed(chunk):
            if data == b"[DONE]":
                yield None
                continue
            event = _chunks.decode(data)
            if event.error is not None:
                raise _failed(_message_of(event.error))
            yield event
    except (msgspec.DecodeError, UnicodeDecodeError, sse.FrameTooLong) as exc:
        raise EngineFailed("the engine sent something that is no answer") from exc


def _finish(finish_reason: str | None, usage: Usage | None) -> Finish:
    if finish_reason is None:
        raise EngineDisconnect("the engine ended the answer without saying that it is whole")
    return Finish(_FINISH_REASONS.get(finish_reason, finish_reason), usage)


def _message_of(error: object) -> str:
    """Find the message in what engines put under `error`: a string or an object."""
    while isinstance(error, dict):
        error = error.get("error") or error.get("message") or error.get("type") or ""
    return error if isinstance(error, str) else ""


def _failed(message: str) -> RagError:
    """Tell overload and a long prompt from other failures by what the engine says."""
    lowered = message.lower()
    if any(sign in lowered for sign in _OVERLOAD_SIGNS):
        return EngineOverloaded("the engine is overloaded")
    if "token" in lowered and any(sign in lowered for sign in _TOO_LONG_SIGNS):
        return PromptTooLong("the prompt exceeds what the engine accepts")
    return EngineFailed("the engine failed to answer")


def _refused(status: int, body: bytes) -> RagError:
    """Map an engine's HTTP error."""
    try:
        message = _message_of(msgspec.json.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError):
        message = body.decode("utf-8", "replace")
    if status in (401, 403):
        return EngineAuth("the engine refused our key: check ENGINE_API_KEY")
    if status == 429:
        return EngineOverloaded("the engine is overloaded")
    if status == 503:
        if "loading" in message.lower():
            return EngineDown("the engine is loading its model")
        return EngineOverloaded("the engine is overloaded")
    if status == 404:
        return EngineFailed("the engine does not know the model: check PIPELINE_MODEL_NAME")
    return _failed(message)
