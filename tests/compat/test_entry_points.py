"""The files that guides tell people to run, started as they say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from light_tts.compat.launch import APP_LOAD_ERROR, build_app, launch
from light_tts.compat.programs import RUN_A10_OPTIMIZED, WSGI_WRAPPER
from light_tts.server import api_server
from light_tts.utils import build_trt

from .conftest import Print, flat
from .test_launch_lines import SHORT_TEXT_VALUES
from .test_presets import GUIDES

ROOT = Path(__file__).parents[2]


def start(*words: str, cwd: Path, **environment: str) -> tuple[dict[str, Any], str]:
    """The printed configuration of a program started in another directory, and what it said beside it."""
    result = subprocess.run(
        words, cwd=cwd, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHON": sys.executable, **environment},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return flat(json.loads(result.stdout)), result.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_start_a10_sh_passes_its_arguments_on(tmp_path: Path) -> None:
    line = "--workers 1 --decode-proc 1 --precision float16 --print_config"
    shown, said = start("bash", str(ROOT / "start_a10.sh"), *line.split(), cwd=tmp_path)
    assert (shown["http_workers"], shown["llm_dtype"], shown["host"], shown["port"]) == (1, "float16", "0.0.0.0", 8080)
    assert shown["old_names"]["decode_process_num"] == 1
    assert "run_a10_optimized.py: configuration" in said
    assert "llm_dtype" in said


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_the_script_for_short_texts_is_its_guides_launch_line(tmp_path: Path) -> None:
    script = str(ROOT / "scripts" / "a10-short-text.sh")
    shown, _ = start("bash", script, "--print_config", cwd=tmp_path)
    assert {name: shown[name] for name in SHORT_TEXT_VALUES} == SHORT_TEXT_VALUES
    assert shown["origins"]["gpu_memory_utilization"] == "preset a10-short"


def test_run_a10_optimized_is_preset_a10(printed: Print) -> None:
    shown = printed("", RUN_A10_OPTIMIZED)
    expected = {**GUIDES["a10"], "host": "0.0.0.0", "port": 8080, "model_dir": "./pretrained_models/CosyVoice2-0.5B"}
    shown["model_dir"] = f"./{shown['model_dir']}"
    assert {name: shown[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("line", "setting", "value"),
    [
        ("--workers 3", "http_workers", 3),
        ("--precision float32", "llm_dtype", "float32"),
        ("--model-dir other", "model_dir", "other"),
        ("--host 127.0.0.1", "host", "127.0.0.1"),
        ("--port 9000", "port", 9000),
        ("--max_total_token_num 16384", "max_total_tokens", 16384),
        ("--preset a10-throughput", "max_running", 128),
    ],
)
def test_each_flag_of_run_a10_optimized_changes_its_setting(
    line: str, setting: str, value: object, printed: Print
) -> None:
    assert printed(line, RUN_A10_OPTIMIZED)[setting] == value


def test_decode_proc_is_named_for_what_it_does(printed: Print) -> None:
    assert printed("--decode-proc 3", RUN_A10_OPTIMIZED)["old_names"] == {"decode_process_num": 3}


def test_a_wrong_precision_is_told_the_three_words(capfd: pytest.CaptureFixture[str]) -> None:
    assert launch(RUN_A10_OPTIMIZED, ["--precision", "foo"]) == 2
    assert "--precision: 'foo' is not allowed; use one of float16, bfloat16, float32" in capfd.readouterr().err


def test_tts_api_server_is_a_file(tmp_path: Path) -> None:
    words = (sys.executable, str(ROOT / "tts_api_server.py"), "--print_config")
    shown, _ = start(*words, cwd=tmp_path, MAX_CONCURRENT_REQUESTS="3", LOAD_VLLM="True")
    assert (shown["port"], shown["max_concurrent_requests"], shown["comma_split"]) == (8000, 3, True)


def test_wsgi_wrapper_prints_what_its_config_asks_for(tmp_path: Path) -> None:
    words = (sys.executable, str(ROOT / "wsgi_wrapper.py"), "--print_config")
    shown, _ = start(*words, cwd=tmp_path, LIGHT_TTS_KEEP_ALIVE_S="9")
    assert (shown["max_total_tokens"], shown["request_timeout_s"], shown["keep_alive_s"]) == (32768, 300.0, 9)
    assert shown["origins"]["max_total_tokens"] == "CONFIG"


def test_the_later_of_two_equal_keys_of_config_holds(printed: Print) -> None:
    """As the CONFIG of the guide has it."""
    config = eval("{'graph_max_batch_size': 16, 'mode': ['triton_flashdecoding'], 'graph_max_batch_size': 4}")
    assert printed("", WSGI_WRAPPER, config)["graph_max_batch_size"] == 4


CONFIG_KEYS: dict[str, object] = {
    "kv_cache_mode": "int8", "enable_kv_cache_quant": True, "quant_type": "triton_int8weight",
    "use_flash_attention": True, "fa_kernel_type": "triton", "enable_gqa": True, "gqa_group_size": 4,
    "workers": 3, "worker_class": "uvicorn.workers.UvicornWorker", "worker_connections": 1000, "max_requests": 10000,
    "max_requests_jitter": 1000, "timeout": 300, "keepalive": 2, "ws_max_size": 16777216, "ws_ping_interval": 20,
    "ws_ping_timeout": 20, "ws_max_queue": 1024, "trt_max_batch_size": 8, "trt_precision": "fp16",
    "trt_workspace_size": 1073741824, "encode_max_batch_size": 8, "batch_max_tokens": None,
}  # fmt: skip


def test_every_key_of_the_guides_configurations_is_understood(
    printed: Print, capfd: pytest.CaptureFixture[str]
) -> None:
    shown = printed("", WSGI_WRAPPER, CONFIG_KEYS)
    expected = {
        "kv_cache_dtype": "int8", "quant_type": "int8", "http_workers": 3, "request_timeout_s": 300.0,
        "keep_alive_s": 2, "ws_max_bytes": 16777216, "ws_ping_interval_s": 20.0, "ws_ping_timeout_s": 20.0,
        "ws_max_queue": 1024, "max_batch": 8, "flow_dtype": "float16", "prefill_budget_tokens": 4096,
    }  # fmt: skip
    assert {name: shown[name] for name in expected} == expected


def test_an_unknown_key_of_config_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert launch(WSGI_WRAPPER, ["--print_config"], config={"graph_max_batch": 4}) == 2
    assert "CONFIG: there is no setting 'graph_max_batch'; did you mean" in capfd.readouterr().err


def test_the_application_is_built_with_the_settings_of_its_config(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Any] = []
    monkeypatch.setattr("light_tts.server.asgi.shared_app", lambda settings, notes: built.append((settings, notes)))
    build_app(WSGI_WRAPPER, {"running_max_req_size": 5, "zmq_mode": "ipc:///tmp/"})
    settings, notes = built[0]
    assert settings.llm.max_running == 5
    assert notes[1].startswith("CONFIG: zmq_mode has no effect: ")


def test_a_mistake_in_config_ends_the_process_manager_too(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        build_app(WSGI_WRAPPER, {"port": 0})
    assert stop.value.code == APP_LOAD_ERROR
    assert capfd.readouterr().err == (
        "wsgi_wrapper.py: CONFIG: port: 0 is not allowed; use a whole number from 1 to 65535\n"
    )


def test_the_examples_of_files_are_read(printed: Print) -> None:
    shown = printed(f"--cuda_graph_config {ROOT}/config/cuda_graph.yaml")
    assert (shown["disable_cudagraph"], shown["graph_max_batch_size"], shown["graph_warmup_iterations"]) == (
        False,
        2,
        10,
    )
    shown = printed(f"--quant_type custom --quant_cfg {ROOT}/quant_config.yaml")
    assert shown["custom_cfg_path"].endswith("quant_config.yaml")


def test_main_of_the_known_module_is_the_program(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As the run_a10_optimized.py that people copied from the guide does: sets sys.argv, imports main, calls it."""
    monkeypatch.setattr(sys, "argv", ["api_server", "--port", "81", "--disable_log_stats", "False", "--print_config"])
    assert api_server.main() == 0
    assert json.loads(capfd.readouterr().out)["server"]["port"] == {"value": 81, "origin": "flag --port"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--model_dir {model} --max_batch_size 2 --max_seq_length 512", "TensorRT"),
        ("--model_dir {model} --max_batch_size 65", "--max_batch_size: '65' is not allowed"),
        ("--model_dir {model} --max_seq_length 9000", "--max_seq_length: '9000' is not allowed"),
        ("--model_dir {model} --trt_precision int3", "--trt_precision: 'int3' is not allowed"),
        ("--model_dir none", "There is no directory none"),
    ],
)
def test_build_trt_says_in_one_line_why_it_builds_nothing(
    line: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    model = ROOT / "light_tts" / "assets" / "builtin"
    assert build_trt.main(line.format(model=model).split()) == 2
    err = capfd.readouterr().err
    assert message in err
    assert err.count("\n") == 1
