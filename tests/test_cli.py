from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import types
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from light_tts import __version__, playback
from light_tts.cli import main
from light_tts.errors import CheckpointError, EngineFailure, UnknownVoice
from light_tts.playback import Player
from light_tts.settings import Settings
from light_tts.types import AudioChunk, ReferenceAudio, RequestStats, SynthesisRequest

CHUNK = (np.sin(np.arange(2400) / 10) * 0.5).astype(np.float32)


class FakeStream:
    def __init__(self, error: BaseException | None) -> None:
        self.stats = RequestStats(total_ms=40.0, audio_s=0.2)
        self.cancelled = False
        self._error = error

    def __iter__(self) -> Iterator[AudioChunk]:
        yield AudioChunk(CHUNK)
        if self._error:
            raise self._error
        yield AudioChunk(CHUNK, is_last=True)

    def __enter__(self) -> FakeStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancelled = True


class FakeVoices:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def names(self) -> list[str]:
        return ["en_female", "zh_female"]

    def add(self, *arguments: Any) -> None:
        self.calls.append(("add", *arguments))

    def remove(self, name: str) -> None:
        self.calls.append(("remove", name))


class FakeEngine:
    """Two chunks of a sine for every text."""

    error: BaseException | None
    load_error: Exception | None
    voices: FakeVoices
    settings: Settings
    requests: list[SynthesisRequest]
    streams: list[FakeStream]
    closed: bool

    @classmethod
    def load(cls, settings: Settings) -> FakeEngine:
        if cls.load_error:
            raise cls.load_error
        cls.settings = settings
        return cls()

    def submit(self, request: SynthesisRequest, *, trace: object = None) -> FakeStream:
        self.requests.append(request)
        self.streams.append(FakeStream(self.error))
        return self.streams[-1]

    def __enter__(self) -> FakeEngine:
        return self

    def __exit__(self, *_: object) -> None:
        type(self).closed = True


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[FakeEngine]:
    fresh = {"error": None, "load_error": None, "voices": FakeVoices(), "requests": [], "streams": [], "closed": False}
    fake = type("TTSEngine", (FakeEngine,), fresh)
    module = types.ModuleType("light_tts.engine")
    module.TTSEngine = fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "light_tts.engine", module)
    monkeypatch.setattr(playback, "find_player", lambda: None)
    monkeypatch.setattr("light_tts.commands.speech_sinks.find_player", lambda: None)
    for name in ("LIGHT_TTS_CONFIG", "LIGHT_TTS_PRESET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return fake


def read_wav(data: bytes) -> tuple[int, int, int]:
    with wave.open(io.BytesIO(data)) as file:
        return file.getframerate(), file.getnchannels(), file.getnframes()


def exit_status(*words: str) -> int:
    """The status as a shell sees it; argparse leaves by SystemExit."""
    try:
        return main(words)
    except SystemExit as leave:
        return int(leave.code or 0)


def test_say_writes_a_whole_file_and_one_summary_line(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["say", "Hello,", "world", "-o", "hello.wav"]) == 0
    out, err = capfd.readouterr()
    assert read_wav((tmp_path / "hello.wav").read_bytes()) == (24000, 1, 4800)
    assert out == ""
    assert err.count("\n") == 1
    assert "hello.wav: 0.20 s of speech, first audio after" in err
    assert "RTF 0.20" in err
    assert [path.name for path in tmp_path.iterdir()] == ["hello.wav"]


@pytest.mark.parametrize(
    ("name", "beginning"),
    [("a.flac", b"fLaC"), ("a.ogg", b"OggS"), ("a.opus", b"OggS"), ("a.aac", b"\xff\xf1"), ("a", b"RIFF")],
)
def test_the_ending_of_the_file_chooses_the_format(name: str, beginning: bytes, tmp_path: Path) -> None:
    assert main(["say", "Hello", "-q", "-o", name]) == 0
    assert (tmp_path / name).read_bytes().startswith(beginning)


def test_format_wins_over_the_ending(tmp_path: Path) -> None:
    assert main(["say", "Hello", "-q", "-o", "a.wav", "--format", "pcm"]) == 0
    assert (tmp_path / "a.wav").stat().st_size == 9600


def test_a_device_is_written_to_and_not_replaced() -> None:
    assert main(["say", "Hello", "-q", "-o", os.devnull, "--format", "wav"]) == 0
    assert not Path(os.devnull).is_file()


def test_dash_streams_to_standard_output_and_nothing_else_goes_there(capfdbinary: Any) -> None:
    assert main(["say", "Hello", "-o", "-", "--format", "pcm"]) == 0
    out, err = capfdbinary.readouterr()
    assert np.array_equal(np.frombuffer(out, "<i2")[:2400], np.rint(CHUNK * 32767).astype("<i2"))
    assert len(out) == 9600
    assert b"standard output: 0.20 s" in err


def test_all_flags_reach_the_request(engine: type[FakeEngine], tmp_path: Path) -> None:
    (tmp_path / "me.wav").write_bytes(b"RIFF")
    words = (
        "say Hi -q -o a.wav --prompt_wav me.wav --prompt-text mine --instruct softly --speed 1.5 --seed 7 --no-stream"
    )
    assert main([*words.split(), "--flow-steps", "5", "--device=cpu"]) == 0
    (request,) = engine.requests
    assert isinstance(request.voice, ReferenceAudio)
    assert (request.voice.data, request.voice.prompt_text) == (b"RIFF", "mine")
    assert (request.text, request.instruction, request.speed, request.seed) == ("Hi", "softly", 1.5, 7)
    assert request.stream is False
    assert (engine.settings.acoustic.flow_steps, engine.settings.model.device) == (5, "cpu")
    assert engine.closed


def test_text_comes_from_standard_input(engine: type[FakeEngine], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\ufeff你好\n".encode()), "utf-8"))
    assert main(["say", "-", "-q", "-o", "a.wav", "--voice", "zh_female"]) == 0
    assert (engine.requests[0].text, engine.requests[0].voice) == ("你好\n", "zh_female")


def test_without_a_player_the_speech_becomes_a_file(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["say", "Hello"]) == 0
    assert read_wav((tmp_path / "speech.wav").read_bytes())[2] == 4800
    assert "speech.wav: no audio player found, so written: 0.20 s" in capfd.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="the players are small shell scripts")
@pytest.mark.parametrize("takes_pipe", [True, False])
def test_a_player_gets_the_samples(
    takes_pipe: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    heard = tmp_path / "heard"
    copy = f"cat {'' if takes_pipe else '{file}'} > {heard}"
    player = Player("copier", ("sh", "-c", copy), takes_pipe)
    monkeypatch.setattr("light_tts.commands.speech_sinks.find_player", lambda: player)
    assert main(["say", "Hello"]) == 0
    assert heard.stat().st_size == 9600 + (0 if takes_pipe else 44)
    assert capfd.readouterr().err.startswith("played: 0.20 s")
    assert not (tmp_path / "speech.wav").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="the players are small shell scripts")
@pytest.mark.parametrize("takes_pipe", [True, False])
def test_a_player_that_fails_leaves_a_file_instead(
    takes_pipe: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    player = Player("deaf", ("sh", "-c", "exit 1"), takes_pipe)
    monkeypatch.setattr("light_tts.commands.speech_sinks.find_player", lambda: player)
    assert main(["say", "Hello"]) == 0
    assert read_wav((tmp_path / "speech.wav").read_bytes())[2] == 4800
    assert "deaf could not play" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["say"], "the following arguments are required: TEXT"),
        (["say", " "], "the text is empty"),
        (["say", "\udcff"], "the text is not valid UTF-8"),
        (["say", "a", "-o", "a.xyz"], "'.xyz' is not the ending of a known format (.wav, .pcm"),
        (["say", "a", "-o", "/no/such/a.wav"], "cannot write /no/such/a.wav: No such file or directory"),
        (["say", "a", "-o", "."], "it is a directory"),
        (["say", "a", "--format", "mp3"], "--format mp3 needs -o FILE"),
        (["say", "a", "--speed", "9"], "--speed: '9' is not allowed; use a number from 0.25 to 4"),
        (["say", "a", "--speed", "nan"], "--speed: 'nan' is not allowed"),
        (["say", "a", "--seed", "-1"], "--seed: '-1' is not allowed"),
        (["say", "a", "--prompt-text", "b"], "give the recording too"),
        (["say", "a", "--prompt-wav", "none.wav"], "cannot read none.wav: No such file or directory"),
        (["say", "a", "--prompt-wav", "x", "--voice", "y"], "give one of them"),
        (["say", "a", "--device", "cudda"], "use one of auto, cpu, cuda; did you mean 'cuda'?"),
        (["say", "a", "-o", "x.wav", "b"], "unexpected argument 'b'; put a text of several words in quotes"),
        (["say", "a", "--voise", "b"], "unknown flag --voise; did you mean '--voice'?"),
        (["serve", "--port", "0"], "--port: '0' is not allowed; use a whole number from 1 to 65535"),
        (["serve", "--open-lists", "perhaps"], "--open-lists: 'perhaps' is not allowed; use true or false"),
        (["serve", "--prot", "1"], "unknown flag --prot; did you mean '--port'?"),
        (["serve", "--config", "none.toml"], "--config: cannot read none.toml"),
        (["shout"], "invalid choice: 'shout'"),
        (["verify"], "one of the arguments --golden --model-dir --make-random is required"),
        (["verify", "--golden", "none"], "none is not a directory"),
        (["verify", "--make-random", "x"], "--make-random wants --family NAME too"),
    ],
)
def test_a_mistake_gets_one_line_and_status_2(
    words: list[str], message: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert exit_status(*words) == 2
    out, err = capfd.readouterr()
    assert message in err
    assert err.count("\n") == 1
    assert out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "status"),
    [(UnknownVoice("Unknown voice 'x'. Voices: a, b."), 2), (EngineFailure("broke"), 1), (KeyboardInterrupt(), 130)],
)
def test_an_error_while_speaking_leaves_no_file_and_no_traceback(
    error: BaseException, status: int, engine: type[FakeEngine], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    engine.error = error
    assert main(["say", "Hello", "-o", "a.wav"]) == status
    err = capfd.readouterr().err
    assert err.startswith(f"light-tts: {error if str(error) else 'interrupted'}")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    assert engine.streams[0].cancelled
    assert engine.closed


def test_a_wrong_model_directory_is_one_sentence(engine: type[FakeEngine], capfd: pytest.CaptureFixture[str]) -> None:
    engine.load_error = CheckpointError("No llm.pt in x.")
    assert main(["say", "Hello", "-o", "a.wav"]) == 2
    assert capfd.readouterr().err == "light-tts: No llm.pt in x.\n"


def test_print_config_takes_every_spelling(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHT_TTS_PORT", "9")
    words = "--prefix-cache false --no-open_lists --log_text --max_running=3 --cors-origins a b --preset cpu"
    assert main(["serve", "--print-config", *words.split()]) == 0
    data = json.loads(capfd.readouterr().out)
    shown = {name: item["value"] for branch in data.values() for name, item in branch.items()}
    assert (shown["prefix_cache"], shown["open_lists"], shown["log_text"]) == (False, False, True)
    assert (shown["max_running"], shown["cors_origins"], shown["device"], shown["port"]) == (3, ["a", "b"], "cpu", 9)
    assert data["server"]["port"]["origin"] == "environment LIGHT_TTS_PORT"


def test_serve_hands_the_settings_to_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Settings] = []
    module = types.ModuleType("light_tts.server.api_server")
    module.run = lambda settings, notes: served.append(settings)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "light_tts.server.api_server", module)
    monkeypatch.setattr("light_tts.server.api_server", module, raising=False)
    assert main(["serve", "--port", "1234"]) == 0
    assert served[0].server.port == 1234


def test_voices_are_listed_added_and_removed(
    engine: type[FakeEngine], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "me.wav").write_bytes(b"RIFF")
    assert main(["voices", "list"]) == 0
    assert main(["voices", "add", "me", "me.wav", "--prompt-text", "mine", "--language", "en"]) == 0
    assert main(["voices", "remove", "me"]) == 0
    assert capfd.readouterr().out.split("\n") == ["en_female", "zh_female", "added me", "removed me", ""]
    assert engine.voices.calls == [("add", "me", b"RIFF", "mine", "en"), ("remove", "me")]


def test_a_reader_that_goes_away_is_no_error() -> None:
    code = (
        "import sys, types, numpy as np\n"
        "from light_tts.types import AudioChunk, RequestStats\n"
        "class Stream:\n"
        "    stats = RequestStats()\n"
        "    def __iter__(self):\n"
        "        for _ in range(200): yield AudioChunk(np.zeros(24000, np.float32))\n"
        "    def __enter__(self): return self\n"
        "    def __exit__(self, *_): pass\n"
        "class TTSEngine(Stream):\n"
        "    load = classmethod(lambda cls, settings: cls())\n"
        "    def submit(self, request, trace=None): return Stream()\n"
        "sys.modules['light_tts.engine'] = module = types.ModuleType('light_tts.engine')\n"
        "module.TTSEngine = TTSEngine\n"
        "from light_tts.cli import main\n"
        "sys.exit(main(['say', 'Hello', '-o', '-', '--format', 'pcm']))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1000)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 141


@pytest.mark.parametrize("words", [["--help"], ["say", "--help"], ["serve", "--help"], ["--version"]])
def test_help_is_quick_it_loads_no_torch_and_no_numpy(words: list[str]) -> None:
    code = (
        "import sys\nfrom light_tts.cli import main\n"
        f"try: main({words!r})\nexcept SystemExit as leave: assert leave.code in (0, None)\n"
        "assert not {'torch', 'numpy', 'fastapi', 'rich'} & set(sys.modules), sorted(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "light-tts" in done.stdout


def test_python_m_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "light_tts", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"light-tts {__version__}\n"
