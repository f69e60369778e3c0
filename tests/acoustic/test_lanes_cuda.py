"""Two lanes on a GPU, whose calls really run at the same time: everybody says what they say alone."""

from __future__ import annotations

import json
import random
import threading
import time

import pytest
import torch
from safetensors.torch import load_file

from light_tts.acoustic.call_log import CallLog
from light_tts.acoustic.decoder import AcousticDecoder
from light_tts.acoustic.express import express_beside
from light_tts.acoustic.express_sizes import EXPRESS_ROWS
from light_tts.acoustic.flow import FlowDecoder
from light_tts.acoustic.flow_graphs import PagedRunner
from light_tts.acoustic.run import AcousticRun
from light_tts.acoustic.vocoder_graph import VocoderGraphs
from light_tts.kernels.flow_kernels import triton_kernels
from light_tts.models.nets.flow_net import build_dit_flow, build_unet_flow
from light_tts.models.nets.hift import build_hift
from light_tts.settings import AcousticSettings
from tests.acoustic.test_decoder import PATIENCE_S, Ear, Speech, assert_nothing_left, feed
from tests.acoustic.tiny_models import CHUNK, GOLDEN, LAYOUTS, LOOKAHEAD, STEPS
from tests.tf32 import tf32

pytestmark = pytest.mark.gpu

BUILDERS = dict(zip(LAYOUTS, (build_unet_flow, build_dit_flow), strict=True))
NUM_STREAMS = 96


@pytest.fixture(autouse=True)
def exact_float32():
    with tf32(False):
        yield


def decoder_of(layout: str, *, has_express: bool) -> AcousticDecoder:
    from light_tts.models.nets.hift_packed import triton_kernels as vocoder_kernels

    config = json.loads((GOLDEN / layout / "config.json").read_text())
    if "encoder" in config["flow"]:
        config["flow"]["encoder"]["static_chunk_size"] = CHUNK
    config["flow"]["decoder"]["estimator"]["static_chunk_size"] = 2 * CHUNK
    net = BUILDERS[layout](config["flow"], load_file(str(GOLDEN / layout / "flow.safetensors")), device="cuda")
    weights = load_file(str(GOLDEN / layout / "hift.safetensors"))
    hift = build_hift(
        config["hift"], weights, is_causal="3" in layout, device="cuda", f0_dtype=torch.float32
    ).requires_grad_(False)
    log = CallLog()
    runner = PagedRunner(
        net, cache_bytes=1 << 26, steps=STEPS, kernels=triton_kernels(), most_graphs=24, calls=log
    )  # fmt: skip
    flow = FlowDecoder(net, prompt_cache_bytes=1 << 25, stream_cache_bytes=1 << 25, runner=runner)
    vocoder = VocoderGraphs(hift, vocoder_kernels(), slots=40, calls=log)  # fewer than streams: states are moved about
    flow.warm_up(8)
    vocoder.capture(8)
    settings = AcousticSettings(max_batch=8, express_streams=NUM_STREAMS if has_express else 0)
    express = express_beside(flow, vocoder, log, settings)
    assert (express is not None) is has_express
    if express is not None:
        express.flow.warm_up(EXPRESS_ROWS)
    return AcousticDecoder(
        flow, vocoder, settings, chunk_tokens=CHUNK, lookahead_tokens=LOOKAHEAD, express=express
    )  # fmt: skip


def speeches() -> list[Speech]:
    chance = random.Random(7)
    lengths, prompts = (30, 55, 90, 140), (28, 53, 53, 78)
    return [
        Speech(chance.choice(prompts), chance.choice(lengths), k % 12, stream=chance.random() < 0.9)
        for k in range(NUM_STREAMS)
    ]


def speak_all(decoder: AcousticDecoder, *, at_once: bool) -> tuple[list[torch.Tensor], list[AcousticRun]]:
    chance = random.Random(3)
    ears, runs = [], []
    for number, speech in enumerate(speeches()):
        ear = Ear()
        run = decoder.open(speech.job(), ear)
        ears.append(ear)
        runs.append(run)
        if at_once:
            threading.Thread(target=feed, args=(run, speech.tokens(), [26, 10])).start()
            if number % 4 == 0:
                time.sleep(0.004 * chance.random())
            if number % 7 == 6:  # somebody leaves, whose places others get
                gone = decoder.open(Speech(53, 120, number % 5).job(), Ear())
                gone.put(speech.tokens()[:30])
                threading.Timer(0.02 * chance.random(), gone.cancel).start()
        else:
            feed(run, speech.tokens())
            assert ear.over.wait(PATIENCE_S)
    return [torch.from_numpy(ear.audio()) for ear in ears], runs


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_crowd_on_two_lanes_says_what_each_says_alone(layout: str) -> None:
    alone = decoder_of(layout, has_express=False)
    alone.start()
    expected, _ = speak_all(alone, at_once=False)
    alone.close()
    decoder = decoder_of(layout, has_express=True)
    decoder.start()
    calls = [0, 0]
    for index, lane in enumerate(decoder.lanes):
        launch = lane._launch

        def counted(work, index=index, launch=launch):
            calls[index] += 1
            return launch(work)

        lane._launch = counted  # type: ignore[method-assign]
    for _ in range(3):
        said, _ = speak_all(decoder, at_once=True)
        for mine, wanted in zip(said, expected, strict=True):
            assert mine.shape == wanted.shape
            assert float((mine - wanted).abs().max()) < 0.03
    assert min(calls) > 5, calls
    assert_nothing_left(decoder)
