"""The parts of an engine, loaded from a model directory: networks side by side, caches of the sizes that fit."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from light_tts.acoustic.call_log import CallLog
from light_tts.acoustic.decoder import AcousticDecoder
from light_tts.acoustic.express import express_beside
from light_tts.acoustic.flow import FlowDecoder
from light_tts.acoustic.flow_graphs import RunnerSearch
from light_tts.acoustic.vocoder import WaveDecoder
from light_tts.acoustic.vocoder_graph import fastest_vocoder, record_ahead
from light_tts.assets import builtin_model_dir
from light_tts.backends import VLLM, check_llm_backend
from light_tts.events import EngineEvents, StartProgress
from light_tts.frontend.frontend import Frontend
from light_tts.gpu_memory import claim_gpu_memory
from light_tts.gpu_turns import NO_TURNS, GpuTurns
from light_tts.half_precision import load_finite_flow, load_finite_vocoder
from light_tts.kernels.compile_pool import compile_processes
from light_tts.llm.backend import SpeechTokenBackend
from light_tts.llm.engine import SpeechTokenEngine
from light_tts.llm.quantization import matrix_maker
from light_tts.llm.weight_plan import plan_weights
from light_tts.memory_plan import MB, MemoryPlan, vocoder_slots
from light_tts.models.model_dir import ModelDirectory
from light_tts.models.nets.flow_net import FlowNet
from light_tts.models.nets.speech_lm import SpeechLM
from light_tts.placement import Placement, place, prepare_cpu, prepare_gpu
from light_tts.settings import Settings


@dataclass(frozen=True, eq=False)
class EngineParts:
    """Everything of an engine that comes from the model, not started yet.

    settings:  with caches that fit into the GPU.
    llms:      by style, the default first.
    memory:    the plan of the GPU's memory; None on CPU.
    """

    settings: Settings
    model_name: str
    placement: Placement
    frontend: Frontend
    llms: dict[str, SpeechTokenBackend]
    decoder: AcousticDecoder
    memory: MemoryPlan | None


def load_parts(settings: Settings, events: EngineEvents, progress: StartProgress) -> EngineParts:
    """Load the model directory of the settings; see `TTSEngine.load`."""
    prepare_gpu(os.environ)
    placement = place(settings.model)
    with compile_processes() if placement.device.type == "cuda" else nullcontext():
        return _load_parts(settings, placement, events, progress)


def _load_parts(settings: Settings, placement: Placement, events: EngineEvents, progress: StartProgress) -> EngineParts:
    weights = plan_weights(settings.llm)
    if placement.device.type == "cpu":
        prepare_cpu(settings.model.cpu_threads)
        settings = replace(settings, acoustic=settings.acoustic.on_cpu())
    directory = ModelDirectory.open(
        Path(settings.model.model_dir or builtin_model_dir()),
        styles_outside=settings.model.styles_outside_model_dir,
    )
    check_llm_backend(settings.llm, directory.styles)
    weights.check_layers(int(directory.backbone["num_hidden_layers"]))
    memory = claim_gpu_memory(settings, directory, placement, weights)
    if memory is not None:
        settings = memory.apply(settings)
    uses_vllm = settings.llm.llm_backend == VLLM
    make_matrix = matrix_maker(weights, dtype=placement.llm_dtype, device=placement.device)
    turns = NO_TURNS
    if placement.device.type == "cuda":
        turns = GpuTurns(settings.acoustic.first_hop + directory.lookahead_tokens)
    log = CallLog()
    with ThreadPoolExecutor(3, thread_name_prefix="load") as pool:
        flow_net = pool.submit(load_finite_flow, directory, placement.flow_dtype, placement.device)
        loaded_vocoder = pool.submit(_load_vocoder, directory, placement, settings, log)
        lms = {
            style: pool.submit(
                directory.load_llm,
                style,
                dtype=placement.llm_dtype,
                device="cpu" if uses_vllm else placement.device,
                make_matrix=make_matrix,
            )
            for style in directory.styles
        }
        frontend = Frontend.from_model_directory(
            directory,
            settings.frontend,
            prompt_alignment=settings.acoustic.prompt_alignment,
            first_hop_tokens=settings.acoustic.first_hop,
        )
        # Recording waits for the whole device, which a recording on another thread would not survive: all are made on
        # this thread, while the others load networks and compile kernels. vLLM does as it likes, so it is left alone.
        if uses_vllm:
            flow_net.result(), loaded_vocoder.result()
            start_llm = partial(_vllm_backend, directory, placement, settings, events)
        else:
            start_llm = partial(_built_in_backend, directory, settings, events, turns, progress)
        search = _runner_search(flow_net.result().net, settings, log)
        if not uses_vllm:
            # The flow has the most kernels: they are compiled while the language model is loaded and recorded.
            search.begin()
        llms = {style: start_llm(loaded.result()) for style, loaded in lms.items()}
        flow = _flow_decoder(flow_net.result().net, search, settings)
        vocoder, vocoder_dtype = loaded_vocoder.result()
    acoustic = settings.acoustic
    vocoder = record_ahead(vocoder, crossfade=acoustic.crossfade, max_rows=acoustic.max_batch, progress=progress)
    placement = replace(placement, flow_dtype=flow_net.result().dtype, vocoder_dtype=vocoder_dtype)
    decoder = AcousticDecoder(
        flow,
        vocoder,
        acoustic,
        chunk_tokens=directory.chunk_tokens,
        lookahead_tokens=directory.lookahead_tokens,
        events=events,
        turns=turns,
        express=express_beside(flow, vocoder, log, acoustic, progress),
    )
    return EngineParts(settings, directory.name, placement, frontend, llms, decoder, memory)


def _built_in_backend(
    directory: ModelDirectory,
    settings: Settings,
    events: EngineEvents,
    turns: GpuTurns,
    progress: StartProgress,
    lm: SpeechLM,
) -> SpeechTokenBackend:
    llm = SpeechTokenEngine(
        lm,
        sampling=directory.sampling,
        settings=settings.llm,
        mix_ratio=directory.mix_ratio,
        events=events,
        turns=turns,
    )
    llm.capture(progress)
    return llm


def _vllm_backend(
    directory: ModelDirectory, placement: Placement, settings: Settings, events: EngineEvents, lm: SpeechLM
) -> SpeechTokenBackend:
    from light_tts.llm.vllm_backend import VLLMBackend

    return VLLMBackend(lm, sampling=directory.sampling, settings=settings.llm, device=placement.device, events=events)


def _load_vocoder(
    directory: ModelDirectory, placement: Placement, settings: Settings, log: CallLog
) -> tuple[WaveDecoder, torch.dtype]:
    """The vocoder with its kernels compiled, and the precision it runs in."""
    loaded = load_finite_vocoder(directory, placement.vocoder_dtype, placement.device)
    vocoder = fastest_vocoder(
        loaded.net,
        crossfade=settings.acoustic.crossfade,
        dtype=loaded.dtype,
        max_rows=settings.acoustic.max_batch,
        slots=vocoder_slots(settings),
        records=not settings.llm.disable_cudagraph,
        calls=log,
    )
    return vocoder, loaded.dtype


def _runner_search(net: FlowNet, settings: Settings, log: CallLog) -> RunnerSearch:
    return RunnerSearch(
        net,
        cache_bytes=sum(_flow_cache_bytes(settings)),
        steps=settings.acoustic.flow_steps,
        most_graphs=0 if settings.llm.disable_cudagraph else settings.acoustic.flow_graphs,
        max_rows=settings.acoustic.max_batch,
        int8_states=settings.acoustic.flow_cache_dtype == "int8",
        may_overlap=settings.llm.overlap_kernels,
        calls=log,
    )


def _flow_decoder(net: FlowNet, search: RunnerSearch, settings: Settings) -> FlowDecoder:
    prompt_bytes, stream_bytes = _flow_cache_bytes(settings)
    return FlowDecoder(net, prompt_cache_bytes=prompt_bytes, stream_cache_bytes=stream_bytes, runner=search.result())


def _flow_cache_bytes(settings: Settings) -> tuple[int, int]:
    """Of prompts, and of streams."""
    return settings.acoustic.prompt_cache_mb * MB, settings.acoustic.least_stream_cache_mb * MB
