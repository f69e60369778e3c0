"""CosyVoice's gRPC service, `cosyvoice.CosyVoice/Inference`: each call is a request to one of our endpoints."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

from starlette.types import ASGIApp

from light_tts.audio_output import wav_header
from light_tts.errors import ConfigError
from light_tts.server.asgi_call import AsgiCall
from light_tts.server.errors import BrokenAnswer

if TYPE_CHECKING:
    import grpc

    from light_tts.server.state import ServerState
    from light_tts.settings import Settings

logger = logging.getLogger(__name__)

PROMPT_RATE_HZ = 16_000
MAX_MESSAGE_BYTES = 2**20  # of audio; clients refuse messages over 4 MB unless told otherwise
PASSED_ON = ("authorization", "xi-api-key", "x-request-id", "x-session-id")
GIVEN_BACK = ("x-request-id", "x-sample-rate", "x-voice")


class Answer(Protocol):
    """What a handler needs of `grpc.aio.ServicerContext`."""

    def invocation_metadata(self) -> Any:
        """(name, value) pairs."""

    async def send_initial_metadata(self, metadata: Any) -> None:
        """Before the first message."""

    async def write(self, message: Any) -> None:
        """A message to the client; waits for its reader."""

    async def abort(self, code: Any, details: str, trailing_metadata: Any) -> None:
        """Ends the call by an exception."""


def check_grpc() -> None:
    """Raises ConfigError when the packages for the service are missing."""
    try:
        import grpc  # noqa: F401
    except ImportError:
        raise ConfigError("--grpc-port needs grpcio; install it with: pip install 'light-tts[grpc]'.") from None


@asynccontextmanager
async def grpc_beside(app: ASGIApp, settings: Settings, state: ServerState) -> AsyncIterator[None]:
    """The service for as long as the block lasts, on the running event loop; nothing without `grpc_port`.

    state:  is told how to stop it earlier.
    """
    host, port = settings.server.host, settings.server.grpc_port
    if not port:
        yield
        return
    import grpc

    server = grpc.aio.server(
        options=[("grpc.max_receive_message_length", (settings.frontend.max_upload_mb + 1) * 2**20)]
    )
    server.add_generic_rpc_handlers((_handlers(app),))
    server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    await server.start()
    state.stops.append(server.stop)
    logger.info("gRPC on %s:%d", host, port)
    try:
        yield
    finally:
        state.stops.remove(server.stop)
        await server.stop(0.0)


def _handlers(app: ASGIApp) -> grpc.GenericRpcHandler:
    import grpc

    from light_tts.server.grpc_messages import METHOD, SERVICE, message_classes

    messages = message_classes()

    async def inference(request: Any, context: Answer) -> None:
        await _speak(app, request, context, messages["Response"])

    handler = grpc.unary_stream_rpc_method_handler(
        inference,
        request_deserializer=messages["Request"].FromString,
        response_serializer=messages["Response"].SerializeToString,
    )
    return grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler})


async def _speak(app: ASGIApp, request: Any, context: Answer, response: Callable[..., Any]) -> None:
    """One call. A client that goes away cancels this coroutine, and leaving the inner request ends its work."""
    import grpc

    from light_tts.server.grpc_messages import PAYLOAD

    kind = request.WhichOneof(PAYLOAD)
    if kind is None:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"The request holds no {PAYLOAD}.", ())
    path, fields = endpoint_of(kind, getattr(request, kind))
    headers = [(name, value) for name, value in context.invocation_metadata() or () if name in PASSED_ON]
    try:
        async with AsgiCall(app, path, fields, headers) as call:
            if call.status != 200:
                await context.abort(*_failure(call.status, await call.whole(), call.headers))
            given = [(name, call.headers[name]) for name in GIVEN_BACK if name in call.headers]
            await context.send_initial_metadata(given)
            async for piece in call:
                for begin in range(0, len(piece), MAX_MESSAGE_BYTES):
                    await context.write(response(tts_audio=piece[begin : begin + MAX_MESSAGE_BYTES]))
    except BrokenAnswer:
        await context.abort(grpc.StatusCode.INTERNAL, "The synthesis failed before its audio was complete.", ())


def endpoint_of(kind: str, payload: Any) -> tuple[str, dict[str, Any]]:
    """The path and the fields of the endpoint that does the same."""
    fields: dict[str, Any] = {"tts_text": payload.tts_text, "response_format": "pcm", "stream": True}
    match kind:
        case "sft_request":
            return "/inference_sft", fields | {"spk_id": payload.spk_id}
        case "zero_shot_request":
            fields |= {"prompt_text": payload.prompt_text, "prompt_wav": _recording(payload.prompt_audio)}
            return "/inference_zero_shot", fields
        case "cross_lingual_request":
            return "/inference_cross_lingual", fields | {"prompt_wav": _recording(payload.prompt_audio)}
        case _:
            return "/inference_instruct", fields | {
                "spk_id": payload.spk_id,
                "instruct_text": payload.instruct_text,
            }


def _recording(samples: bytes) -> str:
    """Headerless 16-bit samples at 16 kHz, as clients of this service send them, as a WAV file in base64."""
    whole = samples[: len(samples) // 2 * 2]
    return base64.b64encode(wav_header(PROMPT_RATE_HZ, len(whole)) + whole).decode() if whole else ""


def _failure(status: int, body: bytes, headers: Any) -> tuple[Any, str, tuple[tuple[str, str], ...]]:
    """Code, sentence and trailing metadata for an answer that is an error."""
    import grpc

    codes = grpc.StatusCode
    error = json.loads(body)
    word = str(error["error_code"])
    by_status = {
        401: codes.UNAUTHENTICATED,
        403: codes.PERMISSION_DENIED,
        404: codes.NOT_FOUND,
        429: codes.RESOURCE_EXHAUSTED,
        503: codes.RESOURCE_EXHAUSTED if word == "OVERLOADED" else codes.UNAVAILABLE,
        504: codes.DEADLINE_EXCEEDED,
    }
    code = by_status.get(status, codes.INVALID_ARGUMENT if status < 500 else codes.INTERNAL)
    trailing = [("error-code", word)]
    if "retry-after" in headers:
        trailing.append(("retry-after", headers["retry-after"]))
    return code, str(error["message"]), tuple(trailing)
