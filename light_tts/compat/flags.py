"""The table: every flag, CONFIG key and variable of the known servers, and what it asks of the settings of today.

Used by `light-tts serve`, by the programs of known names (`programs.py`), by configuration files and CONFIG mappings.
A name that is spelt like a setting stands here only when it takes other values than the setting.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from light_tts.compat.cuda_graph_file import ANY_LENGTH, read_cuda_graph_file, read_cuda_graph_table
from light_tts.compat.modes import read_modes, read_quant_type, split_words
from light_tts.compat.old_names import OldName, Outcome, no_effect, renamed, value_spec, without_effect
from light_tts.errors import ConfigError

_ONE_CALL = "one batched call serves all streams, and more lanes would only share the GPU"
_QUERY_HEADS_PER_KV_HEAD = 7  # of the published models: 14 query heads on 2 of keys and values
_MIN_WORKSPACE_BYTES = 2**20


def _zmq_mode(value: str, source: str) -> Outcome:
    if not value.startswith(("tcp://", "ipc:///tmp/")):
        raise ConfigError(f"{source}: '{value}' is not allowed; use tcp:// or ipc:///tmp/")
    return Outcome(notes=(no_effect("threads of one process hand over in memory, no socket is between them"),))


def _load_way(value: str, source: str) -> Outcome:
    if value == "DS":
        raise ConfigError(f"{source}: DS is not supported; use HF")
    return Outcome(notes=(no_effect("there is one layout of model directories, the published one"),))


def _trust_remote_code(value: bool, source: str) -> Outcome:
    if value:
        raise ConfigError(f"{source}: code of a model directory is never executed; leave the flag away")
    return Outcome(notes=(no_effect("code of a model directory is never executed"),))


def _running_max_req_size(value: int, _: str) -> Outcome:
    # Those that queue must have been let in.
    return Outcome({"max_running": value}, implied={"max_concurrent_requests": max(64, 2 * value)})


def _router_max_wait_tokens(value: int, _: str) -> Outcome:
    return Outcome({"steps_between_admissions": max(1, value)})


def _fp16(value: bool, _: str) -> Outcome:
    return Outcome({"llm_dtype": "float16"} if value else {})


def _load_vllm(value: bool, _: str) -> Outcome:
    if not value:
        return Outcome({"llm_backend": "built-in"})
    if importlib.util.find_spec("vllm") is None:
        return Outcome(notes=("vLLM is not installed; the language model runs on the built-in batched engine",))
    return Outcome({"llm_backend": "vllm"})


def _kv_quant(value: bool, _: str) -> Outcome:
    return Outcome({"kv_cache_dtype": "int8" if value else "auto"})


def _gqa_group_size(value: int, _: str) -> Outcome:
    why = f"the ratio is a property of the weights ({_QUERY_HEADS_PER_KV_HEAD} in the published models)"
    if value == _QUERY_HEADS_PER_KV_HEAD:
        return Outcome(notes=(no_effect(why),))
    return Outcome(warnings=(f"{value} {no_effect(why)}",))


def _lightllm_debug(value: bool, _: str) -> Outcome:
    return Outcome({"log_level": "debug"} if value else {}, gives_way=True)


_LANGUAGE_MODEL = (
    renamed("data_type", "llm_dtype", says="is llm_dtype, also fp16, half, bf16, fp32, auto; flow and vocoder have "
            "their own, flow_dtype and vocoder_dtype"),
    renamed("max_total_token_num", "max_total_tokens"),
    renamed("batch_max_tokens", "prefill_budget_tokens", says="is prefill_budget_tokens; may be smaller than "
            "max_req_total_len, long prompts are computed in parts"),
    OldName("running_max_req_size", "act", value_spec("running_max_req_size", int, ge=1, le=4096),
            "is max_running; twice as many requests are let in, unless max_concurrent_requests is given",
            _running_max_req_size),
    renamed("max_req_total_len", "max_request_tokens"),
    OldName("gpt_paral_num", "map", value_spec("gpt_paral_num", int, ge=1),
            "is an upper bound of max_running", lambda value, _: Outcome(at_most={"max_running": value})),
    without_effect("gpt_paral_step_num", int, "scheduling decides anew in every step", ge=1),
    OldName("mode", "act", value_spec("mode", str, many=True),
            "chooses kv_cache_dtype and quant_type by its words; kernel words have no effect", read_modes, split_words),
    renamed("router_token_ratio", "kv_watermark", effect="map"),
    renamed("router_max_new_token_len", "expected_output_tokens", effect="map"),
    OldName("router_max_wait_tokens", "map", value_spec("router_max_wait_tokens", int, ge=0, le=1024),
            "is steps_between_admissions; 0 is 1", _router_max_wait_tokens),
    renamed("sample_close", "greedy"),
    without_effect("graph_max_len_in_batch", int, ANY_LENGTH, ge=1),
    OldName("cuda_graph_config", "act", value_spec("cuda_graph_config", Path),
            "reads disable_cudagraph, graph_max_batch_size and graph_warmup_iterations from that file",
            read_cuda_graph_file),
    OldName("fp16", "map", value_spec("fp16", bool), "is llm_dtype float16", _fp16),
    OldName("load_vllm", "map", value_spec("load_vllm", bool),
            "is llm_backend vllm where vLLM is installed, else the built-in batched engine", _load_vllm),
    OldName("kv_cache_mode", "act", value_spec("kv_cache_mode", str, choices=("auto", "int8"),
            aliases=dict.fromkeys(("none", "fp16", "bf16", "float16", "bfloat16"), "auto")),
            "is kv_cache_dtype", lambda value, _: Outcome({"kv_cache_dtype": value})),
    OldName("enable_kv_cache_quant", "act", value_spec("enable_kv_cache_quant", bool),
            "is kv_cache_dtype int8", _kv_quant),
    OldName("quant_type", "act", value_spec("quant_type", str),
            "is the setting of that name; the weight formats of mode are understood too", read_quant_type),
    renamed("quant_cfg", "custom_cfg_path"),
    without_effect("use_flash_attention", bool, "attention is always fused where the machine can"),
    without_effect("fa_kernel_type", str, "the kernel is chosen by what the machine has"),
    without_effect("enable_gqa", bool, "grouped queries are a property of the weights"),
    OldName("gqa_group_size", "no-op", value_spec("gqa_group_size", int, ge=1),
            "the ratio is a property of the weights", _gqa_group_size),
)  # fmt: skip

_SPEECH = (
    renamed("encode_process_num", "threads", effect="map"),
    renamed("encode_paral_num", "max_encodings", effect="map"),
    without_effect("encode_max_batch_size", int, "each recording is read alone, several at once on several threads",
                   ge=1),
    without_effect("decode_process_num", int, _ONE_CALL, ge=1, le=8),
    without_effect("decode_paral_num", int, _ONE_CALL, ge=1, le=8),
    without_effect("trt_concurrent", int, _ONE_CALL, ge=1, le=8),
    renamed("decode_max_batch_size", "max_batch"),
    OldName("trt_max_batch_size", "map", value_spec("trt_max_batch_size", int, ge=1, le=64),
            "is max_batch, unless decode_max_batch_size is given",
            lambda value, _: Outcome({"max_batch": value}, gives_way=True)),
    OldName("trt_precision", "map", value_spec("trt_precision", str, choices=("float16", "bfloat16", "float32"),
            aliases={"fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "half": "float16"}),
            "is flow_dtype, unless that is given",
            lambda value, _: Outcome({"flow_dtype": value}, gives_way=True)),
    without_effect("trt_workspace_size", int, "it belongs to the building of engines "
                   "(python -m light_tts.utils.build_trt)", ge=_MIN_WORKSPACE_BYTES),
    without_effect("load_jit", bool, "there is no TorchScript, the modules are called directly"),
    renamed("n_timesteps", "flow_steps"),
    renamed("steps", "flow_steps"),
    renamed("cache_capacity", "voice_cache_capacity"),
    renamed("cache_reserved_ratio", "voice_cache_reserved_ratio"),
    without_effect("stream_audio_max_size", int, "audio is handed over in memory, whatever its size", ge=1),
    renamed("out_token_queue_size", "max_pending_chunks", effect="map"),
)  # fmt: skip

_SERVER = (
    renamed("httpserver_workers", "http_workers", says="is http_workers: HTTP processes that share one engine"),
    renamed("workers", "http_workers", says="is http_workers: processes that speak HTTP, never a second model"),
    OldName("zmq_mode", "no-op", value_spec("zmq_mode", str), "threads of one process hand over in memory", _zmq_mode),
    without_effect("tokenizer_mode", str, "the fast tokenizer is always used", choices=("slow", "auto")),
    OldName("load_way", "no-op", value_spec("load_way", str, choices=("HF", "DS"), aliases={"hf": "HF", "ds": "DS"}),
            "there is one layout of model directories", _load_way),
    OldName("trust_remote_code", "no-op", value_spec("trust_remote_code", bool),
            "code of a model directory is never executed; true is refused", _trust_remote_code),
    renamed("log_stats_interval", "log_stats_interval_s"),
    renamed("timeout_keep_alive", "keep_alive_s"),
    renamed("keepalive", "keep_alive_s"),
    renamed("timeout", "request_timeout_s"),
    renamed("request_timeout", "request_timeout_s"),
    renamed("drain_timeout", "drain_timeout_s"),
    renamed("max_conc", "max_concurrent_requests"),
    renamed("max_text_length", "max_text_chars"),
    renamed("ws_max_size", "ws_max_bytes"),
    renamed("ws_ping_interval", "ws_ping_interval_s"),
    renamed("ws_ping_timeout", "ws_ping_timeout_s"),
    renamed("ws_idle_timeout", "ws_idle_timeout_s"),
    OldName("lightllm_debug", "map", value_spec("lightllm_debug", bool), "is log_level debug", _lightllm_debug),
    without_effect("worker_class", str, "the server brings its own event loop and workers"),
    without_effect("worker_connections", int, "a worker takes what max_concurrent_requests lets in", ge=1),
    without_effect("max_requests", int, "workers are not replaced, and the model is never loaded again", ge=0),
    without_effect("max_requests_jitter", int, "workers are not replaced", ge=0),
)  # fmt: skip

# The content of a `cuda_graph_config` in place.
_CUDA_GRAPH = "cuda_graph"

GROUPS: Mapping[str, tuple[OldName, ...]] = {
    "Language model": _LANGUAGE_MODEL,
    "Voices, flow and vocoder": _SPEECH,
    "Server": _SERVER,
}
OLD_NAMES: Mapping[str, OldName] = {row.name: row for rows in GROUPS.values() for row in rows}

# Flags and keys of the known servers that are settings here, under the same name.
SAME_NAMES = (
    "model_dir", "host", "port", "flow_dtype", "vocoder_dtype", "load_trt", "trt_cache_dir", "disable_cudagraph",
    "graph_max_batch_size", "custom_cfg_path", "gpu_memory_utilization", "max_concurrent_requests", "max_queue",
    "flow_steps", "token_hop_len", "boundary_wait_ms", "sentence_gap_ms", "comma_split", "token_max_n", "token_min_n",
    "merge_len", "token_hard_max", "default_voice", "api_key", "cors_origins", "gzip", "ws_max_queue",
    "health_monitor", "cpu_affinity", "numa_node", "profile_dir", "strict_lighttts", "log_level", "log_dir", "log_text",
    "disable_log_stats",
)  # fmt: skip

# Never flags: keys of files, and what only variables say.
_NO_FLAGS = frozenset({"lightllm_debug", "out_token_queue_size", "stream_audio_max_size"})


def flag_names() -> list[str]:
    """The names that are flags."""
    return [name for name in OLD_NAMES if name not in _NO_FLAGS]


def is_old_name(name: str) -> bool:
    """True for a name of the table, and for the table `cuda_graph` of a file."""
    return name in OLD_NAMES or name == _CUDA_GRAPH


def read_old_name(name: str, value: object, source: str) -> tuple[Any, Outcome]:
    """The typed value, and what it asks for. Raises ConfigError."""
    if name != _CUDA_GRAPH:
        return OLD_NAMES[name].read(value, source)
    if not isinstance(value, dict):
        raise ConfigError(f"{source}: {value!r} is not allowed; use a table")
    return value, read_cuda_graph_table(value, source)
