"""What a route sends of an answer: the whole body, the frames of a stream, or an error.

The responses in `responses.py` know when to send, a wire knows what. This is ours; the OpenAI
routes have their own in `openai_wire.py`.
"""

from typing import Protocol

from api import sse
from api.answering.events import Event
from api.errors import ErrorBody, answer_for
from api.http.schemas import QueryResponse


class Wire(Protocol):
    """Of one answer."""

    def whole(self, response: QueryResponse) -> object:
        """Return the body of an answer that is not streamed."""

    def frame(self, event: Event) -> bytes:
        """Return what an event is in the stream; the events come in their order, each once.

        Empty for an event that this wire does not send by itself.
        """

    def error_frame(self, error: BaseException) -> bytes:
        """Return the end of a stream that broke off."""

    def refusal(self, error: BaseException) -> tuple[int, object]:
        """Return status and body of an answer that never began."""


class OwnWire:
    """Numbered events. `sent` is the number of the last one that the client has already."""

    def __init__(self, request_id: str, *, sent: int = 0) -> None:
        self._request_id = request_id
        self._number = sent

    def whole(self, response: QueryResponse) -> object:
        return response

    def frame(self, event: Event) -> bytes:
        self._number += 1
        return sse.encode_frame(event.event, self._number, event)

    def error_frame(self, error: BaseException) -> bytes:
        body = ErrorBody.of(error, self._request_id)
        return sse.encode_frame(b"error", self._number + 1, body)

    def refusal(self, error: BaseException) -> tuple[int, object]:
        return answer_for(error).status, ErrorBody.of(error, self._request_id)
