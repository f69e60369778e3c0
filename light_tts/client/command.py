"""`python -m light_tts.client`: ask a server once or a few times, write the WAV, print the times.

The flags are those of CosyVoice's own client; `--short` asks for short texts over kept connections instead.
"""

from __future__ import annotations

import argparse
import sys
import time
import wave
from collections.abc import Sequence
from pathlib import Path

from light_tts.client.errors import ClientError
from light_tts.client.profile import DEFAULT, SHORT
from light_tts.client.sync_client import SpeechClient

DEFAULT_RATE_HZ = 24_000
FIELDS_OF_MODE = {
    "sft": ("tts_text", "spk_id"),
    "zero_shot": ("tts_text", "prompt_text", "prompt_wav"),
    "cross_lingual": ("tts_text", "prompt_wav"),
    "instruct": ("tts_text", "spk_id", "instruct_text"),
    "instruct2": ("tts_text", "instruct_text", "prompt_wav"),
}


def main(words: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 1 when the server could not be asked or refused."""
    arguments = _parser().parse_args(words)
    url = f"http://{arguments.host}:{arguments.port}"
    profile = SHORT if arguments.short else DEFAULT
    try:
        with SpeechClient(url, api_key=arguments.api_key, profile=profile) as client:
            for number in range(arguments.num):
                line = _ask_short(client, arguments) if arguments.short else _ask(client, arguments)
                print(f"{number}: {line}")
            print(f"{arguments.num} requests over {client.num_connections_opened} connections: {arguments.tts_wav}")
    except (ClientError, OSError) as error:
        print(f"light-tts client: {error}", file=sys.stderr)
        return 1
    return 0


def _ask_short(client: SpeechClient, arguments: argparse.Namespace) -> str:
    speech = client.speak_short(arguments.tts_text, arguments.spk_id)
    arguments.tts_wav.write_bytes(speech.data)
    return f"{speech.total_s * 1000:.0f} ms, {'from the cache' if speech.is_cached else 'spoken'}"


def _ask(client: SpeechClient, arguments: argparse.Namespace) -> str:
    names = FIELDS_OF_MODE[arguments.mode]
    given = {name: getattr(arguments, name) for name in names}
    fields = {name: str(value) for name, value in given.items() if value is not None and name != "prompt_wav"}
    recording = None if given.get("prompt_wav") is None else given["prompt_wav"].read_bytes()
    started_s = time.monotonic()
    with client.inference(arguments.mode, {**fields, "stream": "true"}, recording) as speech:
        pcm = speech.read()
        rate_hz = speech.details.sample_rate_hz or DEFAULT_RATE_HZ
        first_s = speech.details.first_audio_s
    with wave.open(str(arguments.tts_wav), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(pcm)
    audio_s = len(pcm) / 2 / rate_hz
    total_s = time.monotonic() - started_s
    first = "no audio" if first_s is None else f"first audio after {first_s * 1000:.0f} ms"
    return f"{audio_s:.2f} s of audio in {total_s:.2f} s, {first}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m light_tts.client", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--api_key", "--api-key", help="sent as 'Authorization: Bearer'")
    parser.add_argument("--mode", choices=tuple(FIELDS_OF_MODE), default="sft", help="(default: %(default)s)")
    parser.add_argument("--tts_text", "--tts-text", default="Hello, this is a test.", help="what to say")
    parser.add_argument("--spk_id", "--spk-id", help="a registered voice")
    parser.add_argument("--prompt_text", "--prompt-text", help="what is said in the recording")
    parser.add_argument("--prompt_wav", "--prompt-wav", type=Path, help="a recording of the voice")
    parser.add_argument("--instruct_text", "--instruct-text", help="how to speak")
    parser.add_argument("--tts_wav", "--tts-wav", type=Path, default=Path("demo.wav"), help="(default: %(default)s)")
    parser.add_argument("--short", action="store_true", help="ask /inference_short, over kept connections")
    parser.add_argument("--num", type=int, default=1, help="how many times (default: %(default)s)")
    return parser
