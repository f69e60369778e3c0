"""One or more zero-shot requests in the voice of prompt.wav, one after the other; writes a WAV for each.

python test/test_zero_shot.py --port 8080 --stream --num 3
"""

from __future__ import annotations

import sys
import wave
from collections.abc import Sequence
from pathlib import Path

import common

from light_tts.client import ClientError, SpeechClient

RATE_HZ = 24_000


def main(words: Sequence[str] | None = None) -> int:
    """The exit status."""
    made = common.parser(__doc__)
    common.add_model_flags(made)
    made.add_argument("--stream", action="store_true", help="audio while it is made")
    made.add_argument("--num", type=int, default=1, help="requests (default: %(default)s)")
    made.add_argument("--text", help="what to say (default: texts of test_texts.json)")
    made.add_argument("--output_dir", type=Path, default=Path("."), help="(default: here)")
    arguments = made.parse_args(words)
    common.check_dtype(arguments)
    fields = {"prompt_text": common.prompt_text(arguments), "stream": str(arguments.stream).lower()}
    if arguments.steps is not None:
        fields["flow_steps"] = str(arguments.steps)
    texts = [arguments.text] if arguments.text else common.all_texts()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    try:
        with SpeechClient(common.url_of(arguments), api_key=arguments.api_key) as client:
            for number in range(arguments.num):
                text = texts[number % len(texts)]
                _ask(client, {**fields, "tts_text": text}, arguments.output_dir / f"zero_shot_{number}.wav")
    except ClientError as error:
        sys.exit(str(error))
    return 0


def _ask(client: SpeechClient, fields: dict[str, str], target: Path) -> None:
    with client.inference("zero_shot", fields, common.PROMPT_WAV.read_bytes()) as speech:
        pcm = speech.read()
        details = speech.details
    assert details.total_s is not None
    rate_hz = details.sample_rate_hz or RATE_HZ
    with wave.open(str(target), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(pcm)
    audio_s = len(pcm) / 2 / rate_hz
    print(
        f"{target}: {audio_s:.2f} s of audio, time {details.total_s:.2f} s, TTFT {details.first_audio_s or 0.0:.2f} s, "
        f"RTF {details.total_s / audio_s:.3f}"
    )


if __name__ == "__main__":
    sys.exit(main())
