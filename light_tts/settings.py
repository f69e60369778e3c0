"""The one tree of settings: every value is defined, explained and given its default here, once.

The command line, the environment, preset files and `--help` are made from these classes (`settings_loader.py`);
a stage receives its own branch, never the whole tree. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

Device = Literal["auto", "cpu", "cuda"]
DType = Literal["auto", "float32", "float16", "bfloat16"]


DTYPE_ALIASES = {"half": "float16", "fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "float": "float32"}
LOG_LEVEL_ALIASES = {"warn": "warning", "critical": "error", "fatal": "error", "trace": "debug"}

DEFAULT_STREAM_CACHE_MB = 2048
FIRST_HOP_TOKENS, CPU_FIRST_HOP_TOKENS = 22, 18
MIN_FIRST_HOP_TOKENS = 8  # the vocoder needs 16 mel frames to begin


def setting(
    default: Any,
    help: str,
    *,
    ge: float | None = None,
    le: float | None = None,
    aliases: Mapping[str, str] | None = None,
) -> Any:
    """A field with its default, its one-line explanation, its allowed range, and other words for its choices."""
    return field(default=default, metadata={"help": help, "ge": ge, "le": le, "aliases": aliases or {}})


@dataclass(frozen=True)
class ModelSettings:
    """Which weights, and where they run."""

    model_dir: Path | None = setting(None, "model directory in the published layout; default: the built-in voice model")
    device: Device = setting("auto", "cpu, cuda, or auto (cuda when there is one)")
    llm_dtype: DType = setting(
        "auto",
        "precision of the language model; auto: bfloat16 on Ampere and newer, else float32",
        aliases=DTYPE_ALIASES,
    )
    flow_dtype: DType = setting(
        "auto",
        "precision of the flow; auto: float32 on CPU, bfloat16 matrices on Ampere and newer",
        aliases=DTYPE_ALIASES,
    )
    vocoder_dtype: DType = setting(
        "auto",
        "precision of the vocoder; auto: float32 on CPU, float16 matrices on Ampere and newer",
        aliases=DTYPE_ALIASES,
    )
    load_trt: bool = setting(False, "run the flow on TensorRT where it is installed, else on the built-in backend")
    trt_cache_dir: Path = setting(Path("model_cache/trt_engines"), "directory of TensorRT engines built for this GPU")
    styles_outside_model_dir: bool = setting(
        False, "style_config.json may name weights that lie outside the model directory"
    )
    cpu_threads: int = setting(
        0, "threads of one matrix operation on CPU; 0: half of the cores, at most 8", ge=0, le=1024
    )


@dataclass(frozen=True)
class LLMSettings:
    """Text ids to speech tokens."""

    llm_backend: Literal["built-in", "vllm"] = setting(
        "built-in",
        "what computes the language model; vllm: vLLM, where it is installed, with the same sampling rule and without "
        "text that arrives in pieces, quantisation and styles",
    )
    max_running: int = setting(100, "sequences decoded together; further ones queue", ge=1, le=4096)
    max_total_tokens: int = setting(65536, "capacity of the KV cache in tokens", ge=256)
    max_request_tokens: int = setting(8192, "prompt and output tokens of one sequence", ge=64, le=32768)
    prefill_budget_tokens: int = setting(4096, "tokens of one engine step, decode and prefill together", ge=16)
    block_tokens: int = setting(16, "tokens in one page of the KV cache", ge=1, le=256)
    kv_watermark: float = setting(
        0.0, "share of the KV cache that stays free for running sequences when a new one is let in", ge=0, le=1
    )
    expected_output_tokens: int = setting(
        0, "output tokens of every sequence that must find room before a new one is let in; 0: only its prompt", ge=0
    )
    steps_between_admissions: int = setting(
        1, "decoding steps between two moments at which new sequences are let in", ge=1, le=1024
    )
    greedy: bool = setting(
        False, "always take the most probable speech token: repeatable, but monotonous and prone to repetition"
    )
    prefix_cache: bool = setting(True, "reuse the KV pages of a common beginning ([sos][prompt text])")
    disable_cudagraph: bool = setting(
        False, "on a GPU, launch every kernel of a language model step and of a flow call by itself"
    )
    graph_max_batch_size: int = setting(
        128, "sequences of the largest recorded step (CUDA graph); larger steps replay several", ge=1, le=1024
    )
    graph_warmup_iterations: int = setting(
        1, "times that a step runs before it is recorded as a CUDA graph", ge=1, le=1000
    )
    max_lead_s: float = setting(
        0.0,
        "seconds of speech that a stream may be ahead of its listener; it then rests while there are others, which "
        "leaves more of a small GPU to the flow; 0: no limit; with less than 4 the next chunk may lack its codes",
        ge=0,
    )
    overlap_kernels: bool = setting(
        True,
        "on Hopper and newer GPUs, launch small kernels of the flow before the one before has ended, and try that in "
        "decoding steps",
    )
    kv_cache_dtype: Literal["auto", "int8"] = setting(
        "auto", "precision of cached keys and values; auto: that of the language model"
    )
    quant_type: Literal["none", "int8", "int4", "fp8", "custom"] = setting(
        "none", "fewer bits for the weights of the language model's layers; custom: as custom_cfg_path says"
    )
    custom_cfg_path: Path | None = setting(
        None, "YAML that says which layers are quantised how; needs quant_type custom"
    )


@dataclass(frozen=True)
class AcousticSettings:
    """Speech tokens to waveform."""

    flow_steps: int = setting(10, "Euler steps of the flow; below 4 quality suffers", ge=1, le=50)
    first_hop_tokens: int | None = setting(
        None,
        "speech tokens of the first streamed chunk, to which voices are aligned; default: 22, the most that keep all "
        "whole chunks of a voice, and on a CPU 18, which are heard sooner",
        ge=MIN_FIRST_HOP_TOKENS,
        le=100,
    )
    max_hop_tokens: int = setting(
        100,
        "largest streamed chunk in speech tokens; where the states of a stream found no room, as many as are computed "
        "again with it",
        ge=25,
        le=1000,
    )
    token_hop_len: int | None = setting(
        None,
        "speech tokens of every streamed chunk, the first one too; the flow's own grid stays at 25; "
        "default: a small first chunk, then growing ones",
        ge=5,
        le=100,
    )
    boundary_wait_ms: float = setting(
        15.0, "a chunk, never the first, waits so long for the end of the text, to take its tail along", ge=0, le=1000
    )
    flow_graphs: int = setting(
        80, "on a GPU, most flow calls that are recorded at the start (CUDA graphs), short ones first; 0: none", ge=0
    )
    max_batch: int = setting(16, "most streams joined in one flow or vocoder call", ge=1, le=64)
    express_streams: int = setting(
        12,
        "on a GPU, first hops are computed beside the call that is under way while at most so many streams are open; "
        "with more, or 0, they wait for its end and share the next",
        ge=0,
    )
    prompt_alignment: Literal["aligned", "exact"] = setting(
        "aligned",
        "cut the flow prompt to the chunk grid at registration (aligned) or keep it whole as the reference (exact)",
    )
    final_hop_mask: Literal["chunk", "full"] = setting(
        "chunk",
        "attention mask of a stream's last chunk; full is the reference's and computes the whole utterance again",
    )
    whole_answer_mask: Literal["full", "chunk"] = setting(
        "full",
        "attention mask of what is not streamed; full is the reference's and computes the voice's prompt each time, "
        "chunk is that of streams and builds on what is cached of it: more short texts per second",
    )
    crossfade: Literal["unity", "reference"] = setting(
        "unity", "cross-fade window between chunks: sums to one, or the reference's (sums to 1.08)"
    )
    prompt_cache_mb: int = setting(1024, "bytes kept for the flow states of voices, in MB; 0: off", ge=0)
    stream_cache_mb: int | None = setting(
        None,
        "bytes kept for the flow states of running streams, in MB; 0: recompute; default: 2048, and on a GPU more than "
        "half of what everything else leaves",
        ge=0,
    )
    flow_cache_dtype: Literal["auto", "int8"] = setting(
        "auto",
        "on a GPU, precision of the flow's cached keys and values; auto: that of the flow; int8: half the memory, "
        "for more streams on a small card",
    )

    @property
    def least_stream_cache_mb(self) -> int:
        """The `stream_cache_mb` that was asked for, or what it is by default."""
        return DEFAULT_STREAM_CACHE_MB if self.stream_cache_mb is None else self.stream_cache_mb

    @property
    def first_hop(self) -> int:
        """Speech tokens of the first streamed chunk of an idle system, to which voices are aligned."""
        if self.token_hop_len is not None:
            return max(MIN_FIRST_HOP_TOKENS, self.token_hop_len)
        return FIRST_HOP_TOKENS if self.first_hop_tokens is None else self.first_hop_tokens

    def on_cpu(self) -> AcousticSettings:
        """The same, with the defaults of a CPU."""
        return replace(self, first_hop_tokens=CPU_FIRST_HOP_TOKENS) if self.first_hop_tokens is None else self


@dataclass(frozen=True)
class FrontendSettings:
    """Text and reference audio to what the models read."""

    max_text_chars: int = setting(5000, "longest accepted text in characters; 0: no limit", ge=0)
    token_max_n: int = setting(
        80, "pieces are joined up to this length (characters for Chinese, tokens otherwise)", ge=1
    )
    token_min_n: int = setting(60, "a piece shorter than this takes the next sentence whatever its length", ge=0)
    merge_len: int = setting(20, "a last piece shorter than this joins the one before", ge=0)
    comma_split: bool = setting(False, "commas end sentences too")
    token_hard_max: int = setting(200, "a segment longer than this is cut at the next weaker mark", ge=10)
    max_prompt_s: float = setting(30.0, "longest reference audio in seconds", ge=1, le=30)
    min_prompt_s: float = setting(0.5, "shortest reference audio in seconds", ge=0.1)
    max_upload_mb: int = setting(50, "largest reference file in MB", ge=1)
    voices_dir: Path | None = setting(None, "directory of registered voices; default: the user's data directory")
    voice_cache_capacity: int = setting(200, "reference recordings whose features are kept; 0: off", ge=0)
    voice_cache_reserved_ratio: float = setting(
        0.5, "share of them that stays when the cache is full and the least recently used leave", ge=0, le=1
    )
    max_encodings: int = setting(50, "reference recordings whose features are extracted at the same time", ge=1)
    threads: int = setting(2, "threads that prepare texts and reference audio", ge=1, le=64)


@dataclass(frozen=True)
class ShortTextSettings:
    """Short texts, and the cache of finished phrases."""

    short_text_max_chars: int = setting(100, "longest text of /inference_short in characters", ge=1)
    short_cache_mb: int = setting(64, "bytes kept for finished phrases, in MB; 0: off", ge=0)
    short_template_max_chars: int = setting(50, "longest text whose speech is kept, in characters", ge=1)
    short_cache_all: bool = setting(
        False, "keep short texts of every endpoint that speaks with a registered voice, not only of /inference_short"
    )
    short_templates: Path | None = setting(
        None, "file of phrases to prepare after the start, one a line; an empty file: none; default: five greetings"
    )


@dataclass(frozen=True)
class EngineSettings:
    """Life of a request."""

    max_concurrent_requests: int = setting(64, "requests served at once; over it a clear 503; 0: no limit", ge=0)
    max_queue: int = setting(
        0, "requests that wait for a place when all are taken, in order; 0: refused at once", ge=0, le=100_000
    )
    key_max_concurrent: int = setting(0, "requests of one API key served at once; over it a 429; 0: no limit", ge=0)
    key_requests_per_minute: int = setting(
        0, "requests one API key may begin per minute; over it a 429; 0: no limit", ge=0
    )
    request_timeout_s: float = setting(300.0, "a request that takes longer, its wait included, is ended", ge=1)
    max_pending_chunks: int = setting(64, "audio chunks that wait for a slow reader before its stream is paused", ge=2)
    max_restarts: int = setting(
        3, "times within ten minutes that a stage whose thread died is started again before it stays down", ge=0
    )
    stall_timeout_s: float = setting(
        120.0, "a stage that works on one step for longer than this counts as hung: health checks fail", ge=1
    )
    gpu_memory_utilization: float | None = setting(
        None,
        "most of the GPU's memory that this process takes, as a share; none: what the settings need",
        ge=0.1,
        le=0.9,
    )
    sentence_gap_ms: float = setting(0.0, "silence between two segments of a text", ge=0, le=10_000)
    trace_dir: Path | None = setting(None, "write a Chrome trace of every request here; default: none are written")


@dataclass(frozen=True)
class ServerSettings:
    """The door."""

    host: str = setting("127.0.0.1", "address to listen on")
    port: int = setting(8080, "port to listen on", ge=1, le=65535)
    grpc_port: int = setting(
        0, "port for CosyVoice's gRPC service beside HTTP, with the same limits; 0: none", ge=0, le=65535
    )
    http_workers: int = setting(1, "processes that speak HTTP; they share one engine", ge=1, le=256)
    cpu_affinity: str | None = setting(None, "processors this server runs on, as in 0-15 or 0,2,4")
    numa_node: int | None = setting(None, "memory node whose processors and memory are used", ge=0)
    strict_lighttts: bool = setting(
        False,
        "answer as LightTTS where this server does better: 400 to speed with streaming, 404 from a failing health",
    )
    gzip: bool = setting(False, "compress JSON and text answers of 1000 bytes and more; never audio")
    health_monitor: bool = setting(False, "end the server when its health check fails three times in a row")
    health_check_interval_s: float = setting(88.0, "seconds between two checks of the health monitor", ge=0.1)
    debug_health_fails: bool = setting(False, "health checks fail, to try out what watches them")
    profile_dir: Path | None = setting(
        None, "on SIGUSR1, write a profile of the next engine steps here; default: none are written"
    )
    api_key: tuple[str, ...] = setting((), "keys accepted as 'Authorization: Bearer'; none: no key needed")
    admin_key: tuple[str, ...] = setting(
        (), "keys that may do everything; when there is one, only they add and remove voices"
    )
    open_lists: bool = setting(True, "models and voices are listed without a key")
    cors_origins: tuple[str, ...] = setting((), "origins allowed to call from a browser")
    default_voice: str | None = setting(None, "voice of requests that name none; default: by the text's language")
    voice_aliases: tuple[str, ...] = setting(
        (), "NAME=VOICE: further names of voices at /v1; cloud names (alloy, ...) that are not here: the default voice"
    )
    list_voice_aliases: bool = setting(False, "/v1/audio/voices lists the cloud names and other aliases too")
    accept_any_model: bool = setting(False, "at /v1 an unknown model name means the default model instead of a 404")
    ref_audio_hosts: tuple[str, ...] = setting(
        (), "hosts from which ref_audio may be fetched by http(s); *: any public address; none: nothing is fetched"
    )
    ws_idle_timeout_s: float = setting(60.0, "a WebSocket without text for this long is closed", ge=1)
    ws_max_bytes: int = setting(16 * 1024 * 1024, "largest WebSocket message", ge=1024)
    ws_ping_interval_s: float = setting(20.0, "seconds between two pings on a WebSocket", ge=0.1)
    ws_ping_timeout_s: float = setting(20.0, "a WebSocket whose ping is not answered for this long is closed", ge=0.1)
    ws_max_queue: int = setting(1024, "messages of a WebSocket that wait to be read before it is throttled", ge=1)
    keep_alive_s: int = setting(5, "idle HTTP connections are closed after this", ge=0)
    drain_timeout_s: float = setting(30.0, "how long running requests may go on after SIGTERM", ge=0)
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info", "how much is logged", aliases=LOG_LEVEL_ALIASES
    )
    log_dir: Path | None = setting(None, "directory of the file light-tts.log, beside what goes to standard error")
    log_format: Literal["text", "json"] = setting("text", "one line per event as text, or as JSON")
    log_text: bool = setting(False, "put texts of requests into the log")
    log_stats_interval_s: float = setting(10.0, "seconds between two lines of statistics", ge=1)
    disable_log_stats: bool = setting(False, "write no lines of statistics")


@dataclass(frozen=True)
class Settings:
    """All settings."""

    model: ModelSettings = field(default_factory=ModelSettings)
    llm: LLMSettings = field(default_factory=LLMSettings)
    acoustic: AcousticSettings = field(default_factory=AcousticSettings)
    frontend: FrontendSettings = field(default_factory=FrontendSettings)
    short_text: ShortTextSettings = field(default_factory=ShortTextSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    server: ServerSettings = field(default_factory=ServerSettings)
