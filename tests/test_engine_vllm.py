"""The whole engine with vLLM as the backend of the language model, where that is installed."""

import numpy as np
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed")

from light_tts.engine import TTSEngine
from light_tts.errors import Unsupported
from light_tts.settings import AcousticSettings, LLMSettings, ModelSettings, Settings
from light_tts.types import SynthesisRequest

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

TEXTS = ("Good morning, how are you?", "It is late.")


def load(backend):
    return TTSEngine.load(
        Settings(
            model=ModelSettings(device="cpu"),
            llm=LLMSettings(llm_backend=backend, max_total_tokens=8192, max_request_tokens=4096),
            acoustic=AcousticSettings(flow_steps=1),
        )
    )


def speech(engine):
    """Of all texts at once."""
    streams = [engine.submit(SynthesisRequest(text, seed=seed)) for seed, text in enumerate(TEXTS)]
    return [np.concatenate([chunk.samples for chunk in stream]) for stream in streams]


def test_speech_is_the_same_and_what_cannot_be_done_is_said():
    with load("built-in") as engine:
        expected = speech(engine)
    with load("vllm") as engine:
        found = speech(engine)
        health = engine.health()
        stream = engine.open_text_stream(SynthesisRequest("", seed=1))
        stream.feed(TEXTS[0])
        stream.finish_text()
        with pytest.raises(Unsupported, match="text that arrives in pieces"):
            list(stream)
        again = speech(engine)
    assert health["backends"]["llm"].startswith("vllm (")
    assert health["llm"]["speech_tokens"] > 0
    assert health["quantization"]["kv_bytes"] > 0
    for samples, others, third in zip(expected, found, again, strict=True):
        assert samples.shape == others.shape == third.shape
        np.testing.assert_allclose(samples, others, atol=1e-3)
        np.testing.assert_allclose(samples, third, atol=1e-3)
