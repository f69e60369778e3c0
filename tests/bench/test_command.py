"""`light-tts bench load`, from the words of the command line to the files it writes."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

pytest.importorskip("aiohttp")
from aiohttp import web

from light_tts.bench import command
from light_tts.bench.measurement import Measurement
from light_tts.commands.arguments import CommandParser
from light_tts.errors import ConfigError, LightTTSError


async def answer(request: web.Request) -> web.StreamResponse:
    if request.headers.get("Authorization", "Bearer right") != "Bearer right":
        return web.json_response({"message": "wrong key", "error_code": "UNAUTHORIZED"}, status=401)
    body = await request.json()
    if body["seed"] == 3:
        return web.json_response({"error": {"message": "busy", "code": "overloaded"}}, status=503)
    return web.Response(body=b"\0\x20" * 24_000, content_type="audio/pcm")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server on a thread of its own, as the command has its own event loop."""
    loop, ready, ports = asyncio.new_event_loop(), threading.Event(), []

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_post("/v1/audio/speech", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        ports.append(runner.addresses[0][1])
        return runner

    def serve() -> None:
        runner = loop.run_until_complete(start())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(10.0)
    yield f"http://127.0.0.1:{ports[0]}"
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def bench(words: Sequence[str]) -> int:
    parser = CommandParser(prog="light-tts")
    command.add_parser(parser.add_subparsers())
    arguments = parser.parse_args(["bench", *words])
    return int(arguments.run(arguments))


def plan_of(*words: str) -> Measurement:
    parser = CommandParser(prog="light-tts")
    command.add_parser(parser.add_subparsers())
    return Measurement.from_arguments(parser.parse_args(["bench", "load", *words]))


def test_closed_loop_at_two_levels(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, plot = tmp_path / "out.json", tmp_path / "plot.svg"
    words = ["load", "--url", url, "--dialect", "openai", "--workers", "1", "3", "--requests", "6"]
    assert bench([*words, "-o", str(output), "--plot", str(plot)]) == 0
    report = json.loads(output.read_text(encoding="utf-8"))
    assert report["target"] == {"url": url, "dialect": "openai"}
    assert report["machine"]["cores"] >= 1
    for run, workers in zip(report["runs"], (1, 3), strict=True):
        assert run["load"]["workers"] == workers
        assert run["summary"]["requests_ok"] == 5
        assert run["summary"]["errors"] == {"http 503 overloaded": 1}
        assert run["summary"]["audio_s"] == 5.0
    assert plot.read_text(encoding="utf-8").startswith("<svg")
    assert "first audio p99, ms" in capsys.readouterr().out


def test_open_loop_buffered(url: str, tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    words = ["load", "--url", url, "--dialect", "openai", "--mode", "open", "--rate", "200", "--requests", "3"]
    assert bench([*words, "--no-stream", "-o", str(output)]) == 0
    run = json.loads(output.read_text(encoding="utf-8"))["runs"][0]
    assert run["summary"]["requests_played"] == 0
    assert [row["error"] for row in run["requests"]] == [None] * 3


def test_nothing_but_failures_is_status_1(url: str) -> None:
    words = ["load", "--url", url, "--dialect", "openai", "--warm-up", "0", "--requests", "1", "--seed", "3"]
    assert bench(words) == 1


def test_the_key_comes_from_the_environment(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["load", "--url", url, "--dialect", "openai", "--requests", "1", "--api-key-env", "BENCH_KEY"]
    with pytest.raises(ConfigError, match="BENCH_KEY"):
        bench(words)
    monkeypatch.setenv("BENCH_KEY", "right")
    assert bench(words) == 0
    monkeypatch.setenv("BENCH_KEY", "wrong")
    with pytest.raises(LightTTSError, match="http 401 UNAUTHORIZED: wrong key"):
        bench(words)


def test_without_an_end_there_is_a_default_one() -> None:
    assert plan_of().plans[0].num_requests == 50
    assert plan_of("--duration-s", "9").plans[0].num_requests is None


def test_voice_by_recording(tmp_path: Path) -> None:
    recording = tmp_path / "voice.wav"
    recording.write_bytes(b"RIFF")
    options = plan_of("--prompt-wav", str(recording), "--prompt-text", "hi", "--field", "flow_steps=5").options
    assert (options.prompt_audio, options.prompt_text, options.fields) == (b"RIFF", "hi", (("flow_steps", "5"),))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--mode", "open", "--workers", "2"], "--workers"),
        (["--rate", "2"], "--rate"),
        (["--requests", "0"], "--requests"),
        (["--prompt-text", "hi"], "--prompt-wav"),
        (["--prompt-wav", "/nowhere.wav"], "nowhere"),
        (["--voice", "a", "--prompt-wav", "b.wav"], "--voice"),
        (["--field", "flow_steps"], "--field"),
        (["--plot", "plot.png"], r"\.svg"),
        (["--url", "localhost:8080"], "http://"),
    ],
)
def test_mistakes_are_told_before_anything_is_measured(words: list[str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        bench(["load", *words])


def test_describing_the_command_costs_nothing() -> None:
    """`light-tts --help` and every other verb import this module; heavy packages come with `run`."""
    program = "import sys, light_tts.bench.command; print({'torch', 'numpy', 'aiohttp', 'rich'} & sys.modules.keys())"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "set()"


def test_settings_of_the_engine_are_flags(tmp_path: Path) -> None:
    """A directory that is no model is refused by the engine: the flag reached it."""
    pytest.importorskip("torch")
    with pytest.raises(LightTTSError, match=tmp_path.name):
        bench(["engine", "--model-dir", str(tmp_path), "--device", "cpu", "--requests", "1"])
