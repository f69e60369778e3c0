"""What always holds (docs/architecture.md), end to end with the built-in model; the stages' own tests go deeper."""

from __future__ import annotations

import ast
import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from light_tts.audio_stream import AudioStream
from light_tts.engine import TTSEngine
from light_tts.errors import BadAudio, InvalidRequest, LightTTSError, Overloaded, TextTooLong
from light_tts.models.checkpoint import load_weights
from light_tts.narration import mix_seed
from light_tts.settings import AcousticSettings, EngineSettings, FrontendSettings, LLMSettings, Settings
from light_tts.types import ReferenceAudio, SynthesisRequest

PACKAGE = Path(__file__).parents[1] / "light_tts"
LIMIT = 24
FLOW_STEPS = 2
AUDIO_TOLERANCE = 1e-2  # of the golden data for a whole chain
PATIENCE_S = 120.0
TEXTS = ("Hi.", "好。", "Good morning.", "您好，欢迎使用。", "The train leaves at nine.", "再见。")


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("voices")


def load(voices: Path, **branches: object) -> TTSEngine:
    frontend = FrontendSettings(voices_dir=voices, max_text_chars=400)
    engine = EngineSettings(max_concurrent_requests=LIMIT)
    return TTSEngine.load(Settings(frontend=frontend, engine=engine, **branches))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def engine(voices: Path) -> Iterator[TTSEngine]:
    with load(voices) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def frugal(voices: Path) -> Iterator[TTSEngine]:
    """Nothing kept, small calls, few places, few pages: everything is computed again and again."""
    acoustic = AcousticSettings(prompt_cache_mb=0, stream_cache_mb=0, max_batch=3, max_hop_tokens=25)
    llm = LLMSettings(max_running=5, max_total_tokens=1024, max_request_tokens=512, prefix_cache=False)
    with load(voices, acoustic=acoustic, llm=llm) as loaded:
        yield loaded


def request(text: str, seed: int, **fields: object) -> SynthesisRequest:
    return SynthesisRequest(text, seed=seed, flow_steps=FLOW_STEPS, **fields)  # type: ignore[arg-type]


def heard(stream: AudioStream) -> np.ndarray:
    with stream:
        return np.concatenate([chunk.samples for chunk in stream])


class Tokens:
    """The speech tokens of every run, by the seed of its request and segment."""

    def __init__(self, engine: TTSEngine, patch: pytest.MonkeyPatch) -> None:
        self.by_seed: dict[int, list[int]] = {}
        plain = engine._decoder.open

        def opened(job, sink):  # type: ignore[no-untyped-def]
            run = plain(job, sink)
            self.by_seed[job.seed] = run.tokens
            return run

        patch.setattr(engine._decoder, "open", opened)

    def take(self) -> dict[int, list[int]]:
        taken, self.by_seed = self.by_seed, {}
        return taken


CROWD_TEXT = "The train leaves at nine."


@pytest.mark.parametrize("stream", [True, False])
def test_tokens_and_samples_are_the_same_alone_and_among_fifteen_others(
    engine: TTSEngine, frugal: TTSEngine, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = {name: Tokens(owner, monkeypatch) for name, owner in (("kept", engine), ("frugal", frugal))}
    alone = heard(engine.submit(request(CROWD_TEXT, 11, stream=stream)))
    expected = tokens["kept"].take()
    for name, owner in (("kept", engine), ("frugal", frugal)):
        chance = random.Random(name)
        others = [owner.submit(request(chance.choice(TEXTS), 100 + k, stream=chance.random() < 0.7)) for k in range(8)]
        mine = owner.submit(request(CROWD_TEXT, 11, stream=stream))
        for k in range(7):
            others.append(owner.submit(request(chance.choice(TEXTS), 200 + k)))
            time.sleep(chance.random() * 0.1)
            chance.choice(others).cancel()
        samples = heard(mine)
        for other in others:
            other.cancel()
        assert tokens[name].take()[mine_seed(11)] == expected[mine_seed(11)]
        assert samples.shape == alone.shape
        assert float(np.abs(samples - alone).max()) < AUDIO_TOLERANCE
        assert_nothing_in_use(owner)


def mine_seed(seed: int) -> int:
    return mix_seed(seed, 0)


def in_use(engine: TTSEngine) -> dict[str, int]:
    """Everything that a request may hold, prompts kept for later requests excepted."""
    flow = engine._decoder.flow
    stats = [llm.stats() for llm in engine._llms.values()]
    return {
        "requests": engine.health()["running"],
        "acoustic runs": engine._decoder.num_runs,
        "flow bytes": flow.stream_budget.used_bytes,
        "prompts in use": sum(entry.users for entry in flow.prompts._entries.values()),
        "language model runs": sum(s.running + s.waiting + s.parked for s in stats),
        "pages": sum(s.kv_blocks_used for s in stats),
    }


def assert_nothing_in_use(engine: TTSEngine) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while any(in_use(engine).values()):
        assert time.monotonic() < deadline_s, in_use(engine)
        time.sleep(0.005)


def test_cancelling_at_random_points_leaves_nothing(engine: TTSEngine) -> None:
    chance = random.Random(5)
    for _ in range(3):
        streams: list[AudioStream] = []
        for number in range(12):
            if chance.random() < 0.3:
                opened = engine.open_text_stream(request("", number, voice="zh_female"))
                opened.feed("今天天气真不错，我们去公园散步吧。")
                if chance.random() < 0.5:
                    opened.flush()
                    opened.feed("再见。")
                streams.append(opened)
            else:
                streams.append(engine.submit(request(chance.choice(TEXTS), number, stream=chance.random() < 0.7)))
            time.sleep(chance.random() * 0.05)
            if chance.random() < 0.5:
                chance.choice(streams).cancel()
        for stream in streams:
            time.sleep(chance.random() * 0.02)
            stream.cancel()
        assert_nothing_in_use(engine)


def test_a_burst_over_the_limit_is_refused_at_once_and_the_admitted_finish_in_order(engine: TTSEngine) -> None:
    alone = {text: heard(engine.submit(request(text, 3))) for text in TEXTS}
    admitted: list[tuple[str, AudioStream]] = []
    refusals: list[Overloaded] = []
    for number in range(100):
        text = TEXTS[number % len(TEXTS)]
        try:
            admitted.append((text, engine.submit(request(text, 3))))
        except Overloaded as error:
            refusals.append(error)
    assert len(admitted) >= LIMIT
    assert len(refusals) > 50, "the burst was over before it could be served"
    assert all(error.retry_after_s > 0 for error in refusals)
    assert engine.health()["running"] <= LIMIT
    for text, stream in admitted:
        samples = heard(stream)
        assert samples.shape == alone[text].shape
        assert float(np.abs(samples - alone[text]).max()) < AUDIO_TOLERANCE
    assert_nothing_in_use(engine)


def test_texts_and_recordings_are_bounded(engine: TTSEngine, frugal: TTSEngine) -> None:
    with pytest.raises(TextTooLong):
        heard(engine.submit(request("好。" * 300, 1)))
    with (
        pytest.raises(TextTooLong, match="max_request_tokens"),
        frugal.open_text_stream(request("", 1, voice="zh_female")) as stream,
    ):
        for _ in range(23):  # under the limit of characters
            stream.feed("今天天气真不错，我们去公园散步吧。")
        for _ in stream:
            pass
    with pytest.raises((BadAudio, InvalidRequest)):
        heard(engine.submit(request("Hi.", 1, voice=ReferenceAudio(bytes(51 * 2**20), "words"))))
    assert_nothing_in_use(engine)


def test_a_slow_reader_pauses_only_itself(voices: Path) -> None:
    settings = Settings(
        frontend=FrontendSettings(voices_dir=voices),
        engine=EngineSettings(max_pending_chunks=2),
        acoustic=AcousticSettings(max_hop_tokens=25),
    )
    text = "今天天气真不错，我们一起去公园散步吧。"
    with TTSEngine.load(settings) as engine:
        expected = heard(engine.submit(request(text, 4)))
        slow = engine.submit(request(text, 4))
        first = heard(engine.submit(request(text, 4)))
        np.testing.assert_allclose(first, expected, atol=AUDIO_TOLERANCE)
        assert len(slow._mailbox) <= 2
        assert not slow.is_finished
        np.testing.assert_allclose(heard(slow), expected, atol=AUDIO_TOLERANCE)
        assert_nothing_in_use(engine)


@pytest.mark.parametrize("stage", ["flow", "vocoder"])
def test_a_failing_request_ends_alone(engine: TTSEngine, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = TEXTS[4]
    expected = heard(engine.submit(request(text, 3)))
    owner = getattr(engine._decoder, stage)
    decode = owner.decode

    def spoiled(items):  # type: ignore[no-untyped-def]
        if any(item.stream in guilty for item in items):
            raise RuntimeError("spoiled")
        return decode(items)

    guilty: set[object] = set()
    plain = engine._decoder.open

    def opened(job, sink):  # type: ignore[no-untyped-def]
        run = plain(job, sink)
        if job.flow_steps == 3:
            guilty.add(getattr(run, stage))
        return run

    monkeypatch.setattr(engine._decoder, "open", opened)
    monkeypatch.setattr(owner, "decode", spoiled)
    streams = [engine.submit(request(text, 3)) for _ in range(4)]
    bad = engine.submit(SynthesisRequest(text, seed=3, flow_steps=3))
    with pytest.raises(LightTTSError, match="failed"):
        heard(bad)
    for stream in streams:
        np.testing.assert_allclose(heard(stream), expected, atol=AUDIO_TOLERANCE)
    assert_nothing_in_use(engine)


# no pickles from strangers


def sources() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "assets/builtin" not in path.as_posix())


def unsafe_calls(tree: ast.AST) -> list[str]:
    """Ways to execute what a file says. The errors of `pickle` may be named, since torch raises them."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in UNSAFE_MODULES:
            found += [] if node.attr.endswith("Error") else [ast.unparse(node)]
        elif isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name in UNSAFE_MODULES and (a.asname or a.name != "pickle")]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNSAFE_MODULES:
            found += [a.name for a in node.names if not a.name.endswith("Error")]
        elif isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if call in ("torch.load", "jit.load", "torch.jit.load") and options.get("weights_only") != "True":
                found.append(call)
            if call in ("np.load", "numpy.load") and options.get("allow_pickle", "False") != "False":
                found.append(call)
            if call in ("yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all", "load_hyperpyyaml"):
                found.append(call)
            if call in ("yaml.load", "yaml.load_all"):
                loader = ast.unparse(node.args[1]) if len(node.args) > 1 else options.get("Loader", "")
                found += [] if "Safe" in loader or "Base" in loader else [call]
            found += [call] if call in ("eval", "exec") else []
    return found


UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "hyperpyyaml"}


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_nothing_in_a_file_of_others_is_executed(path: Path) -> None:
    assert unsafe_calls(ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle; pickle.loads(data)",
        "import pickle as p; p.loads(data)",
        "import dill",
        "from pickle import loads",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.load(text, yaml.UnsafeLoader)",
        "yaml.unsafe_load(text)",
        "eval(text)",
    ],
)
def test_the_search_finds_what_it_looks_for(code: str) -> None:
    assert unsafe_calls(ast.parse(code))


def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (exec, (f"open({str(tmp_path / 'sprung')!r}, 'w')",))

    torch.save({"weight": Trap()}, tmp_path / "llm.pt")
    with pytest.raises(LightTTSError):
        load_weights(tmp_path / "llm.pt")
    assert not (tmp_path / "sprung").exists()
