"""`light-tts say`: one text, spoken here and now."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from light_tts.commands.arguments import add_setting_flags, add_source_flags, settings_from
from light_tts.errors import EmptyText, InvalidRequest
from light_tts.trace import RequestTrace
from light_tts.types import ReferenceAudio, SynthesisRequest

if TYPE_CHECKING:
    from light_tts.settings import Settings

FORMAT_OF_ENDING = {
    ".wav": "wav",
    ".pcm": "pcm",
    ".raw": "pcm",
    ".flac": "flac",
    ".mp3": "mp3",
    ".opus": "opus",
    ".ogg": "opus",
    ".aac": "aac",
}
FORMATS = ("wav", "pcm", "flac", "mp3", "opus", "aac")
SETTINGS = (
    "model_dir",
    "device",
    "llm_dtype",
    "flow_dtype",
    "vocoder_dtype",
    "cpu_threads",
    "flow_steps",
    "voices_dir",
)
# One listener: less memory than a server's defaults, and no deadline.
ONE_LISTENER: dict[str, object] = {
    "max_running": 8,
    "max_total_tokens": 16384,
    "prompt_cache_mb": 256,
    "stream_cache_mb": 512,
    "request_timeout_s": 86400,
}


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the verb."""
    parser = verbs.add_parser(
        "say",
        help="speak a text: play it, or write it to a file",
        description="Speak a text. Without -o it is played on this machine's speakers.",
    )
    parser.add_argument("text", nargs="+", metavar="TEXT", help="what to say; - reads it from standard input")
    parser.add_argument("-o", "--output", metavar="FILE", help="write here instead of playing; - is standard output")
    parser.add_argument("--format", choices=FORMATS, help="default: by the ending of FILE, else wav")
    add_voice_flags(parser)
    parser.add_argument("--speed", metavar="X", type=_speed, default=1.0, help="0.25 to 4 (default: 1)")
    parser.add_argument("--seed", metavar="N", type=_seed, help="the same seed gives the same audio (default: random)")
    parser.add_argument(
        "--stream",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="make the audio in chunks as the speech is thought up (default), or each sentence in one piece",
    )
    parser.add_argument("--trace", metavar="FILE", type=Path, help="write where the time went, as Chrome trace JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress and no summary")
    add_source_flags(parser)
    add_setting_flags(parser, SETTINGS, title="model")
    parser.set_defaults(run=run)


def add_voice_flags(parser: argparse.ArgumentParser) -> None:
    """Who speaks, and how."""
    parser.add_argument("--voice", metavar="NAME", help="a named voice (default: one of the text's language)")
    parser.add_argument("--prompt-wav", metavar="FILE", type=Path, help="a recording whose voice to use, 0.5 to 30 s")
    parser.add_argument("--prompt-text", metavar="TEXT", help="what is said in that recording; brings the voice closer")
    parser.add_argument("--instruct", metavar="TEXT", help="how to say it, where the model takes instructions")


def run(arguments: argparse.Namespace) -> int:
    """Speak."""
    started_s = time.monotonic()
    settings = settings_from(arguments, ONE_LISTENER).settings
    audio_format = choose_format(arguments.output, arguments.format)
    request = SynthesisRequest(
        text=read_text(arguments.text),
        voice=choose_voice(arguments),
        instruction=arguments.instruct,
        stream=arguments.stream,
        speed=arguments.speed,
        seed=arguments.seed,
    )
    trace = RequestTrace() if arguments.trace is not None else None
    _speak(request, settings, arguments.output, audio_format, started_s, quiet=arguments.quiet, trace=trace)
    if trace is not None:
        trace.write(arguments.trace)
    return 0


def _speak(
    request: SynthesisRequest,
    settings: Settings,
    output: str | None,
    audio_format: str,
    started_s: float,
    *,
    quiet: bool,
    trace: RequestTrace | None = None,
) -> None:
    from light_tts.commands.say_progress import SayProgress
    from light_tts.commands.speech_sinks import open_sink

    with SayProgress(started_s, quiet=quiet) as progress:
        sink = open_sink(output, audio_format)
        try:
            from light_tts.engine import TTSEngine

            with TTSEngine.load(settings) as engine:
                progress.loaded()
                with engine.submit(request, trace=trace) as audio:
                    for chunk in audio:
                        progress.spoke(chunk.samples.size)
                        sink.write(chunk.samples)
                where = sink.finish()
        except BaseException:
            sink.abort()
            raise
        progress.summary(where, audio.stats)


def choose_format(output: str | None, wanted: str | None) -> str:
    """The format asked for, else that of the file's ending. Raises InvalidRequest for an ending nobody knows."""
    if wanted is not None:
        if output is None and wanted != "wav":
            raise InvalidRequest(f"--format {wanted} needs -o FILE; without it the speech is played", "format")
        return wanted
    ending = Path(output).suffix.lower() if output not in (None, "-") else ""
    if not ending:
        return "wav"
    if ending not in FORMAT_OF_ENDING:
        endings = ", ".join(FORMAT_OF_ENDING)
        raise InvalidRequest(f"'{ending}' is not the ending of a known format ({endings}); or use --format", "output")
    return FORMAT_OF_ENDING[ending]


def read_text(words: list[str]) -> str:
    """The text of the command line; "-" alone is standard input. Raises InvalidRequest, EmptyText."""
    if words == ["-"]:
        try:
            text = sys.stdin.buffer.read().decode("utf-8-sig")
        except UnicodeDecodeError:
            raise InvalidRequest("the text on standard input is not UTF-8", "text") from None
    else:
        text = " ".join(words)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidRequest("the text is not valid UTF-8", "text") from None
    if not text.strip():
        raise EmptyText("the text is empty", "text")
    return text


def choose_voice(arguments: argparse.Namespace) -> str | ReferenceAudio | None:
    """The named voice or the recording. Raises InvalidRequest."""
    if arguments.prompt_wav is None:
        if arguments.prompt_text is not None:
            raise InvalidRequest("--prompt-text says what is in --prompt-wav; give the recording too", "prompt_text")
        return str(arguments.voice) if arguments.voice is not None else None
    if arguments.voice is not None:
        raise InvalidRequest("--voice and --prompt-wav both say who speaks; give one of them", "voice")
    return ReferenceAudio(read_recording(arguments.prompt_wav), arguments.prompt_text)


def read_recording(path: Path) -> bytes:
    """The file's bytes. Raises InvalidRequest."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"cannot read {path}: {error.strerror}", "prompt_wav") from None


def _speed(word: str) -> float:
    try:
        speed = float(word)
    except ValueError:
        speed = 0.0
    if not 0.25 <= speed <= 4.0:
        raise argparse.ArgumentTypeError(f"'{word}' is not allowed; use a number from 0.25 to 4")
    return speed


def _seed(word: str) -> int:
    try:
        seed = int(word)
    except ValueError:
        seed = -1
    if not 0 <= seed < 2**63:
        raise argparse.ArgumentTypeError(f"'{word}' is not allowed; use a whole number from 0 to 2^63 - 1")
    return seed
