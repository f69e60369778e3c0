"""Client of a Light TTS server, for asyncio and for ordinary code: speech whole or as it is made, text piece by piece
over a WebSocket, voices. Imports neither torch nor numpy; needs aiohttp (`pip install light-tts[client]`).
"""

from __future__ import annotations

from light_tts.client.async_client import AsyncSpeechClient
from light_tts.client.errors import (
    AnswerCut,
    BadRequest,
    ClientError,
    NoConnection,
    NotAllowed,
    Refused,
    ServerBusy,
    ServerFailed,
    TimedOut,
)
from light_tts.client.profile import DEFAULT, SHORT, ConnectionProfile
from light_tts.client.speech import AudioPiece, ShortSpeech, VoiceInfo
from light_tts.client.sync_client import SpeechClient

__all__ = [
    "DEFAULT",
    "SHORT",
    "AnswerCut",
    "AsyncSpeechClient",
    "AudioPiece",
    "BadRequest",
    "ClientError",
    "ConnectionProfile",
    "NoConnection",
    "NotAllowed",
    "Refused",
    "ServerBusy",
    "ServerFailed",
    "ShortSpeech",
    "SpeechClient",
    "TimedOut",
    "VoiceInfo",
]
