"""The launch lines of the guides, as they are written there: each starts, with the values it asks for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from light_tts.compat.programs import API_SERVER, TTS_API_SERVER

from .conftest import Print, flat

ROOT = Path(__file__).parents[2]

# The guide for short texts on an A10. LightTTS refuses the line: words after flags that take none, a flag it lacks,
# and a prefill budget below the longest request.
SHORT_TEXT = """
    --model_dir ./pretrained_models/CosyVoice2-0.5B-latest --host 0.0.0.0 --port 8080
    --httpserver_workers 6 --encode_process_num 2 --encode_paral_num 4 --gpt_paral_num 80 --gpt_paral_step_num 50
    --decode_process_num 2 --decode_paral_num 3 --decode_max_batch_size 1 --max_total_token_num 16384
    --max_req_total_len 2048 --batch_max_tokens 1024 --load_trt true --disable_cudagraph false
    --graph_max_batch_size 2 --graph_max_len_in_batch 512 --mode triton_flashdecoding,triton_int8kv
    --cache_capacity 500 --cache_reserved_ratio 0.7 --router_max_wait_tokens 2 --router_max_new_token_len 512
    --timeout_keep_alive 2 --disable_log_stats false --log_stats_interval 5
"""
SHORT_TEXT_VALUES = {
    "model_dir": "pretrained_models/CosyVoice2-0.5B-latest", "host": "0.0.0.0", "port": 8080, "http_workers": 6,
    "threads": 2, "max_encodings": 4, "max_running": 80, "max_batch": 1, "max_total_tokens": 16384,
    "max_request_tokens": 2048, "prefill_budget_tokens": 1024, "load_trt": True, "disable_cudagraph": False,
    "graph_max_batch_size": 2, "kv_cache_dtype": "int8", "voice_cache_capacity": 500,
    "voice_cache_reserved_ratio": 0.7, "steps_between_admissions": 2, "expected_output_tokens": 512,
    "keep_alive_s": 2, "disable_log_stats": False, "log_stats_interval_s": 5.0,
}  # fmt: skip

# What run_a10_optimized.py of the guide hands to the server, words after store-true flags included.
A10_ARGV = """
    --host 0.0.0.0 --port 8080 --httpserver_workers 2 --zmq_mode ipc:///tmp/
    --model_dir ./pretrained_models/CosyVoice2-0.5B --tokenizer_mode slow --load_way HF --data_type bfloat16
    --max_total_token_num 32768 --batch_max_tokens 4096 --running_max_req_size 100 --max_req_total_len 8192
    --encode_process_num 1 --encode_paral_num 32 --gpt_paral_num 32 --gpt_paral_step_num 200 --decode_process_num 2
    --decode_paral_num 2 --decode_max_batch_size 2 --mode triton_flashdecoding --trust_remote_code False
    --disable_log_stats False --log_stats_interval 10 --router_token_ratio 0.0 --router_max_new_token_len 1024
    --router_max_wait_tokens 8 --cache_capacity 200 --cache_reserved_ratio 0.5 --sample_close False
    --health_monitor False --disable_cudagraph False --graph_max_batch_size 4 --graph_max_len_in_batch 32768
    --load_jit False --load_trt True
"""
A10_VALUES = {
    "host": "0.0.0.0", "port": 8080, "http_workers": 2, "model_dir": "pretrained_models/CosyVoice2-0.5B",
    "llm_dtype": "bfloat16", "max_total_tokens": 32768, "prefill_budget_tokens": 4096, "max_running": 32,
    "max_request_tokens": 8192, "threads": 1, "max_encodings": 32, "max_batch": 2, "kv_cache_dtype": "auto",
    "quant_type": "none", "disable_log_stats": False, "log_stats_interval_s": 10.0, "kv_watermark": 0.0,
    "expected_output_tokens": 1024, "steps_between_admissions": 8, "voice_cache_capacity": 200,
    "voice_cache_reserved_ratio": 0.5, "greedy": False, "health_monitor": False, "disable_cudagraph": False,
    "graph_max_batch_size": 4, "load_trt": True, "max_concurrent_requests": 200,
}  # fmt: skip

# The same guide without its script, the tuning guide's TensorRT line, and the two lines of the A10 report.
WAY_TWO = """
    --model_dir ./pretrained_models/CosyVoice2-0.5B --data_type bfloat16 --host 0.0.0.0 --port 8080
    --httpserver_workers 2 --decode_process_num 2 --max_total_token_num 32768 --load_trt True
"""
TENSORRT = "--model_dir ./pretrained_models/CosyVoice2-0.5B-latest --load_trt True --trt_max_batch_size 8"
REPORT = """
    --model_dir ./pretrained_models/CosyVoice2-0.5B-latest --load_trt True --max_total_token_num 65536
    --max_req_total_len 32768 --graph_max_batch_size 32 --batch_max_tokens 8192
"""
REPORT_QUANTISED = REPORT + " --mode triton_int8kv triton_int4weight"
TUNED_4090 = """
    --host 0.0.0.0 --port 8080 --model_dir ./pretrained_models/CosyVoice2-0.5B-latest --httpserver_workers 3
    --decode_process_num 2 --encode_process_num 2 --encode_paral_num 8 --gpt_paral_num 100 --decode_paral_num 4
    --decode_max_batch_size 4 --max_total_token_num 65536 --batch_max_tokens 8192 --router_max_wait_tokens 512
    --cache_capacity 100 --graph_max_batch_size 8 --graph_max_len_in_batch 512 --load_trt True
"""

LINES: dict[str, tuple[str, dict[str, Any]]] = {
    "short texts on an A10": (SHORT_TEXT, SHORT_TEXT_VALUES),
    "argv of run_a10_optimized.py": (A10_ARGV, A10_VALUES),
    "way two": (
        WAY_TWO,
        {"llm_dtype": "bfloat16", "http_workers": 2, "max_total_tokens": 32768, "load_trt": True},
    ),
    "TensorRT": (TENSORRT, {"load_trt": True, "max_batch": 8}),
    "report": (
        REPORT,
        {"max_total_tokens": 65536, "max_request_tokens": 32768, "graph_max_batch_size": 32,
         "prefill_budget_tokens": 8192},
    ),
    "report, quantised": (REPORT_QUANTISED, {"kv_cache_dtype": "int8", "quant_type": "int4"}),
    "RTX 4090": (
        TUNED_4090,
        {"http_workers": 3, "max_batch": 4, "steps_between_admissions": 512, "max_running": 100, "max_encodings": 8},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LINES)
def test_a_launch_line_starts_with_its_values(name: str, printed: Print) -> None:
    line, expected = LINES[name]
    shown = printed(line)
    assert {setting: shown[setting] for setting in expected} == expected


@pytest.mark.parametrize("name", LINES)
def test_every_flag_of_a_line_is_reported_under_its_own_name(name: str, printed: Print) -> None:
    line, _ = LINES[name]
    flags = {word.removeprefix("--") for word in line.split() if word.startswith("--")}
    shown = printed(line)
    assert flags <= set(shown) | set(shown["old_names"])


TTS_LINES: dict[str, tuple[str, dict[str, Any]]] = {
    "basic": (
        "--model_dir models/Fun-CosyVoice3-0.5B-2512 --load_vllm --fp16 --gpu_memory_utilization 0.35 "
        "--trt_concurrent 2",
        {"model_dir": "models/Fun-CosyVoice3-0.5B-2512", "llm_dtype": "float16", "gpu_memory_utilization": 0.35,
         "max_concurrent_requests": 4, "port": 8000, "comma_split": True, "token_max_n": 100, "token_min_n": 40,
         "merge_len": 15, "token_hop_len": 25},
    ),
    "alone": (
        "--model_dir models/Fun-CosyVoice3-0.5B-2512 --load_vllm True --fp16 True --gpu_memory_utilization 0.5 "
        "--trt_concurrent 4 --max_concurrent_requests 4 --workers 1 --token_hop_len 20",
        {"gpu_memory_utilization": 0.5, "http_workers": 1, "token_hop_len": 20},
    ),
    "beside other services": (
        "--load_vllm True --fp16 True --gpu_memory_utilization 0.25 --trt_concurrent 2 --max_concurrent_requests 3",
        {"gpu_memory_utilization": 0.25, "max_concurrent_requests": 3},
    ),
    "plenty of memory": (
        "--load_vllm True --gpu_memory_utilization 0.4 --trt_concurrent 3 --max_concurrent_requests 5",
        {"gpu_memory_utilization": 0.4, "max_concurrent_requests": 5, "llm_dtype": "auto"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TTS_LINES)
def test_a_line_of_tts_api_server(name: str, printed: Print) -> None:
    line, expected = TTS_LINES[name]
    shown = printed(line, TTS_API_SERVER)
    assert {setting: shown[setting] for setting in expected} == expected


def test_tts_api_server_takes_the_same_from_its_variables_alone(
    printed: Print, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = (
        "--model_dir models/Fun-CosyVoice3-0.5B-2512 --load_vllm True --fp16 True --gpu_memory_utilization 0.3 "
        "--trt_concurrent 2 --max_concurrent_requests 3"
    )
    by_flags = printed(line, TTS_API_SERVER)
    words = line.replace("--", "").split()
    for name, value in zip(words[::2], words[1::2], strict=True):
        monkeypatch.setenv(name.upper(), value)
    by_variables = printed("", TTS_API_SERVER)
    by_flags.pop("origins")
    assert by_variables.pop("origins")["llm_dtype"] == "environment FP16"
    assert by_variables == by_flags
    # The variables are those of that program alone.
    assert printed("", API_SERVER)["model_dir"] is None


def test_the_module_of_the_known_name_is_a_program(tmp_path: Path) -> None:
    """Once as a process, from another directory and with nothing but the installed package."""
    result = subprocess.run(
        [sys.executable, "-m", "light_tts.server.api_server", *SHORT_TEXT.split(), "--print_config"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    shown = flat(json.loads(result.stdout))
    assert {setting: shown[setting] for setting in SHORT_TEXT_VALUES} == SHORT_TEXT_VALUES


def test_collect_env_reports_machine_versions_and_parameters(capfd: pytest.CaptureFixture[str]) -> None:
    from light_tts.compat.launch import launch

    assert launch(API_SERVER, ["--collect_env", "--port", "81", "--api_key", "secret-key"]) == 0
    text = capfd.readouterr().out
    report = json.loads(text)
    assert {"gpus", "torch_sees", "packages", "python", "environment"} <= set(report)
    assert report["packages"]["numpy"]
    assert report["settings"]["server"]["port"]["value"] == 81
    assert "secret-key" not in text
