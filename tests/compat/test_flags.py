"""Each old name alone: what it asks for, what it says, what it refuses."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from light_tts.compat.flags import OLD_NAMES, flag_names, read_old_name
from light_tts.compat.launch import launch
from light_tts.compat.programs import API_SERVER, TTS_API_SERVER
from light_tts.errors import ConfigError
from light_tts.settings_loader import LoadedSettings, load_settings
from light_tts.settings_spec import setting_specs

from .conftest import Print

Refused = Callable[..., str]


def load(flags: dict[str, object], **sources: Any) -> LoadedSettings:
    return load_settings(flags, environment=sources.pop("environment", {}), **sources)


MAPPED: list[tuple[str, object, str, object]] = [
    ("data_type", "fp16", "llm_dtype", "float16"),
    ("data_type", "half", "llm_dtype", "float16"),
    ("data_type", "bf16", "llm_dtype", "bfloat16"),
    ("data_type", "fp32", "llm_dtype", "float32"),
    ("data_type", "auto", "llm_dtype", "auto"),
    ("max_total_token_num", "16384", "max_total_tokens", 16384),
    ("batch_max_tokens", "1024", "prefill_budget_tokens", 1024),
    ("running_max_req_size", "7", "max_running", 7),
    ("max_req_total_len", "2048", "max_request_tokens", 2048),
    ("gpt_paral_num", "3", "max_running", 3),
    ("router_token_ratio", "0.25", "kv_watermark", 0.25),
    ("router_max_new_token_len", "512", "expected_output_tokens", 512),
    ("router_max_wait_tokens", "8", "steps_between_admissions", 8),
    ("router_max_wait_tokens", "0", "steps_between_admissions", 1),
    ("sample_close", "true", "greedy", True),
    ("fp16", "true", "llm_dtype", "float16"),
    ("fp16", "false", "llm_dtype", "auto"),
    ("kv_cache_mode", "int8", "kv_cache_dtype", "int8"),
    ("kv_cache_mode", "fp16", "kv_cache_dtype", "auto"),
    ("enable_kv_cache_quant", True, "kv_cache_dtype", "int8"),
    ("quant_type", "triton_int8weight", "quant_type", "int8"),
    ("quant_type", "triton-fp8w8a8-b128", "quant_type", "fp8"),
    ("quant_type", "int4", "quant_type", "int4"),
    ("mode", "triton_int8kv", "kv_cache_dtype", "int8"),
    ("mode", "ppl_int8kv_flashdecoding", "kv_cache_dtype", "int8"),
    ("mode", "ppl_fp16", "kv_cache_dtype", "auto"),
    ("mode", "triton_int8weight", "quant_type", "int8"),
    ("mode", "triton_flashdecoding TRITON-INT4WEIGHT", "quant_type", "int4"),
    ("mode", ["triton_flashdecoding", "vllm-fp8w8a8"], "quant_type", "fp8"),
    ("encode_process_num", "4", "threads", 4),
    ("encode_paral_num", "4", "max_encodings", 4),
    ("decode_max_batch_size", "8", "max_batch", 8),
    ("trt_max_batch_size", "8", "max_batch", 8),
    ("trt_precision", "fp16", "flow_dtype", "float16"),
    ("n_timesteps", "5", "flow_steps", 5),
    ("steps", "6", "flow_steps", 6),
    ("cache_capacity", "500", "voice_cache_capacity", 500),
    ("cache_reserved_ratio", "0.7", "voice_cache_reserved_ratio", 0.7),
    ("out_token_queue_size", "6", "max_pending_chunks", 6),
    ("httpserver_workers", "1", "http_workers", 1),
    ("workers", "1", "http_workers", 1),
    ("log_stats_interval", "5", "log_stats_interval_s", 5.0),
    ("timeout_keep_alive", "2", "keep_alive_s", 2),
    ("keepalive", "2", "keep_alive_s", 2),
    ("timeout", "300", "request_timeout_s", 300.0),
    ("request_timeout", "60", "request_timeout_s", 60.0),
    ("drain_timeout", "3", "drain_timeout_s", 3.0),
    ("max_conc", "4", "max_concurrent_requests", 4),
    ("max_text_length", "0", "max_text_chars", 0),
    ("ws_max_size", "16777216", "ws_max_bytes", 16777216),
    ("ws_ping_interval", "20", "ws_ping_interval_s", 20.0),
    ("ws_ping_timeout", "20", "ws_ping_timeout_s", 20.0),
    ("ws_idle_timeout", "9", "ws_idle_timeout_s", 9.0),
    ("lightllm_debug", "1", "log_level", "debug"),
]


@pytest.mark.parametrize(("name", "word", "setting", "value"), MAPPED)
def test_an_old_name_sets_its_setting(name: str, word: object, setting: str, value: object) -> None:
    loaded = load({name: word})
    assert getattr(getattr(loaded.settings, setting_specs()[setting].branch), setting) == value
    assert name in loaded.used


WITHOUT_EFFECT = {
    "zmq_mode": "ipc:///tmp/", "tokenizer_mode": "slow", "load_way": "HF", "trust_remote_code": "false",
    "load_jit": "true", "gpt_paral_step_num": "200", "decode_process_num": "2", "decode_paral_num": "3",
    "trt_concurrent": "2", "graph_max_len_in_batch": "512", "encode_max_batch_size": "8",
    "trt_workspace_size": "1073741824", "use_flash_attention": True, "fa_kernel_type": "triton", "enable_gqa": True,
    "gqa_group_size": 7, "worker_class": "uvicorn.workers.UvicornWorker", "worker_connections": 1000,
    "max_requests": 10000, "max_requests_jitter": 1000, "stream_audio_max_size": 65536,
}  # fmt: skip


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_a_name_without_effect_says_so_and_why(name: str) -> None:
    loaded = load({name: WITHOUT_EFFECT[name]})
    assert loaded.settings == load({}).settings
    (note,) = loaded.notes
    assert note.startswith(f"--{name} has no effect: ")
    assert loaded.used[name].effect == "no-op"


def test_every_name_of_the_table_is_tried_here() -> None:
    tried = {name for name, *_ in MAPPED} | set(WITHOUT_EFFECT) | {"cuda_graph_config", "load_vllm", "quant_cfg"}
    assert tried == set(OLD_NAMES)
    assert {name for name, row in OLD_NAMES.items() if row.effect == "no-op"} == set(WITHOUT_EFFECT)


def test_words_of_mode_that_name_kernels_have_no_effect() -> None:
    loaded = load({"mode": "triton_flashdecoding,triton_int8kv,triton_flashdecoding"})
    assert loaded.used["mode"].value == ("triton_flashdecoding", "triton_int8kv")
    assert loaded.notes == (
        "--mode triton_flashdecoding has no effect: the paged decoding kernel is used whatever the word",
    )


@pytest.mark.parametrize("is_installed", [True, False])
def test_load_vllm_takes_vllm_where_it_is_installed(monkeypatch: pytest.MonkeyPatch, is_installed: bool) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if is_installed else None)
    loaded = load({"load_vllm": "True"})
    assert loaded.settings.llm.llm_backend == ("vllm" if is_installed else "built-in")
    assert ["vLLM is not installed" in note for note in loaded.notes] == ([] if is_installed else [True])
    assert load({"load_vllm": "False"}).settings.llm.llm_backend == "built-in"


def test_settings_that_vllm_does_not_know_are_warned_of() -> None:
    (warning,) = load({"llm_backend": "vllm", "max_lead_s": 4, "graph_max_batch_size": 64}).warnings
    assert warning.startswith("graph_max_batch_size, max_lead_s: no effect with llm_backend vllm")
    assert load({"llm_backend": "vllm", "max_running": 8}).warnings == ()


def test_another_group_size_is_warned_of() -> None:
    assert "gqa_group_size 4 has no effect" in load({"gqa_group_size": 4}).warnings[0]


REFUSED = [
    ("--load_trt maybe", "--load-trt: 'maybe' is not allowed; use true or false"),
    ("--load_jit maybe", "--load_jit: 'maybe' is not allowed; use true or false"),
    ("--data_type int3", "--data_type: 'int3' is not allowed; use one of auto, float32, float16, bfloat16"),
    ("--zmq_mode udp://x", "--zmq_mode: 'udp://x' is not allowed; use tcp:// or ipc:///tmp/"),
    ("--tokenizer_mode fast", "--tokenizer_mode: 'fast' is not allowed; use one of slow, auto"),
    ("--load_way DS", "--load_way: DS is not supported; use HF"),
    ("--load_way XY", "--load_way: 'XY' is not allowed; use one of HF, DS"),
    ("--trust_remote_code true", "--trust_remote_code: code of a model directory is never executed"),
    ("--decode_process_num 0", "--decode_process_num: '0' is not allowed; use a whole number from 1 to 8"),
    ("--decode_paral_num 9", "--decode_paral_num: '9' is not allowed; use a whole number from 1 to 8"),
    ("--trt_concurrent 0", "--trt_concurrent: '0' is not allowed; use a whole number from 1 to 8"),
    ("--decode_max_batch_size 65", "--decode_max_batch_size: '65' is not allowed; use a whole number from 1 to 64"),
    ("--batch_max_tokens 15", "--batch_max_tokens: '15' is not allowed; use a whole number, at least 16"),
    ("--max_req_total_len 32769", "--max_req_total_len: '32769' is not allowed; use a whole number from 64 to 32768"),
    ("--router_max_wait_tokens 1025", "--router_max_wait_tokens: '1025' is not allowed"),
    ("--router_token_ratio 1.5", "--router_token_ratio: '1.5' is not allowed; use a number from 0 to 1"),
    ("--cache_reserved_ratio -0.1", "--cache_reserved_ratio: '-0.1' is not allowed"),
    ("--cache_capacity -1", "--cache_capacity: '-1' is not allowed"),
    ("--gpu_memory_utilization 0.05", "--gpu-memory-utilization: '0.05' is not allowed; use a number from 0.1 to 0.9"),
    ("--token_hop_len 4", "--token-hop-len: '4' is not allowed; use a whole number from 5 to 100"),
    ("--trt_workspace_size 1000", "--trt_workspace_size: '1000' is not allowed"),
    ("--flow_steps 51", "--flow-steps: '51' is not allowed; use a whole number from 1 to 50"),
    ("--timeout_keep_alive -1", "--timeout_keep_alive: '-1' is not allowed"),
    ("--httpserver_workers 0", "--httpserver_workers: '0' is not allowed"),
    ("--log_stats_interval 0", "--log_stats_interval: '0' is not allowed"),
    ("--mode triton_int8kv triton_flsh", "--mode: 'triton_flsh' is not a mode; use words of triton_flashdecoding, "),
    ("--mode ppl_int4kv_flashdecoding", "--mode: ppl_int4kv_flashdecoding is not supported here"),
    ("--mode ppl_fp16,triton_int8kv", "--mode: ppl_fp16 and triton_int8kv are two formats of the KV cache"),
    ("--mode triton_int8weight triton_int4weight",
     "--mode: triton_int8weight and triton_int4weight are two formats of the weights; give one of them"),
    ("--quant_type vllm-w8a8", "vllm-w8a8 is not supported here"),
    ("--mode triton_int8weight --quant_type int4", "asks for quant_type"),
    ("--kv_cache_mode auto --enable_kv_cache_quant true",
     "--kv_cache_mode asks for kv_cache_dtype auto and --enable_kv_cache_quant for int8; give one of them"),
    ("--fp16 --data_type bfloat16", "asks for llm_dtype"),
    ("--max_total_token_num 4096", "max_request_tokens (8192, from default) is above max_total_tokens (4096, from flag "
     "--max_total_token_num)"),
    ("--max_total_tokn_num 1", "unknown flag --max-total-tokn-num; did you mean '--max-total-token-num'?"),
    ("--cuda_graph_config none.yaml", "--cuda_graph_config: cannot read none.yaml: No such file"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "message"), REFUSED)
def test_a_bad_value_ends_the_start_with_one_line(line: str, message: str, refused: Refused) -> None:
    assert message in refused(line)


def test_booleans_stand_alone_or_take_a_word_or_are_negated(printed: Print) -> None:
    assert printed("--sample_close")["greedy"] is True
    assert printed("--sample_close --port 9")["greedy"] is True
    assert printed("--no-sample_close")["greedy"] is False
    assert printed("--sample-close=YES")["greedy"] is True
    for word in ("0", "no", "Off", "False", "false"):
        assert printed(f"--load_trt {word}")["load_trt"] is False
        assert printed(f"--disable_cudagraph {word} --load_jit {word}")["disable_cudagraph"] is False


def test_the_later_of_two_equal_flags_holds(printed: Print) -> None:
    assert printed("--graph_max_batch_size 16 --graph_max_batch_size 4")["graph_max_batch_size"] == 4


def test_gpt_paral_num_bounds_whatever_decides_the_batch(printed: Print) -> None:
    assert printed("--gpt_paral_num 32 --running_max_req_size 100")["max_running"] == 32
    assert printed("--gpt_paral_num 100 --running_max_req_size 32")["max_running"] == 32
    assert printed("--gpt_paral_num 2 --max-running 9")["max_running"] == 2
    assert printed("--gpt_paral_num 2")["origins"]["max_running"] == "flag --gpt_paral_num"


def test_those_that_queue_for_the_language_model_are_let_in(printed: Print) -> None:
    assert printed("--running_max_req_size 100")["max_concurrent_requests"] == 200
    assert printed("--running_max_req_size 2")["max_concurrent_requests"] == 64
    shown = printed("--running_max_req_size 100 --max_concurrent_requests 4")
    assert shown["max_concurrent_requests"] == 4
    assert printed("--running_max_req_size 100", TTS_API_SERVER)["max_concurrent_requests"] == 200


def test_a_stronger_source_wins_whichever_name_it_uses(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("max_total_token_num: 20000\nmode: triton_int8kv\ndata_type: fp16\nworkers: 3\n")
    environment = {"LIGHT_TTS_MAX_TOTAL_TOKENS": "30000", "LIGHTTTS_DATA_TYPE": "bfloat16"}
    loaded = load({"kv_cache_dtype": "auto"}, config_file=file, environment=environment, preset="cpu")
    assert loaded.settings.llm.max_total_tokens == 30000
    assert loaded.settings.llm.kv_cache_dtype == "auto"
    assert loaded.settings.model.llm_dtype == "bfloat16"
    assert loaded.settings.server.http_workers == 3
    assert loaded.origins["llm_dtype"] == "environment LIGHTTTS_DATA_TYPE"


def test_old_names_of_a_file_are_known_and_typos_are_not(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("gpt_paral_num: 3\ncuda_graph: {enabled: false, max_batch_size: 2}\n")
    loaded = load({}, config_file=file)
    assert (loaded.settings.llm.max_running, loaded.settings.llm.disable_cudagraph) == (3, True)
    file.write_text("gpt_parall_num: 3\n")
    with pytest.raises(ConfigError, match="there is no setting 'gpt_parall_num'; did you mean 'gpt_paral_num'"):
        load({}, config_file=file)


def test_a_file_of_cuda_graphs(tmp_path: Path) -> None:
    file = tmp_path / "g.yaml"
    file.write_text("cuda_graph: {enabled: true, max_batch_size: 2, max_seq_length: 512, warmup_iterations: 10}\n")
    loaded = load({"cuda_graph_config": str(file)})
    llm = loaded.settings.llm
    assert (llm.disable_cudagraph, llm.graph_max_batch_size, llm.graph_warmup_iterations) == (False, 2, 10)
    assert "max_seq_length has no effect" in loaded.notes[0]
    # A flag of its own beside the file holds.
    both = load({"cuda_graph_config": str(file), "graph_max_batch_size": "8", "disable_cudagraph": "true"})
    assert (both.settings.llm.graph_max_batch_size, both.settings.llm.disable_cudagraph) == (8, True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cuda_graph: {enable: true}", "cuda_graph has no field 'enable'; did you mean 'enabled'?"),
        ("cuda_graph: {enabled: perhaps}", "enabled: 'perhaps' is not allowed"),
        ("graph: 1", "must hold a table 'cuda_graph'"),
        ("cuda_graph: [", "is not valid YAML"),
    ],
)
def test_a_bad_file_of_cuda_graphs_is_one_sentence(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "g.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load({"cuda_graph_config": str(file)})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_variables_of_lighttts() -> None:
    environment = {
        "LIGHTLLM_LOG_LEVEL": "WARN", "LIGHTLLM_LOG_DIR": "logs", "LIGHTLLM_OUT_TOKEN_QUEUE_SIZE": "6",
        "HEALTH_CHECK_INTERVAL_SECONDS": "5", "DEBUG_HEALTHCHECK_RETURN_FAIL": "true", "LIGHTLLM_ANYTHING": "1",
        "LIGHTTTS_STREAM_AUDIO_MAX_SIZE": "65536",
    }  # fmt: skip
    loaded = load({}, environment=environment)
    server = loaded.settings.server
    assert (server.log_level, server.log_dir, server.health_check_interval_s) == ("warning", Path("logs"), 5.0)
    assert server.debug_health_fails is True
    assert loaded.settings.engine.max_pending_chunks == 6
    assert loaded.warnings == ()
    assert loaded.notes[0].startswith("LIGHTTTS_STREAM_AUDIO_MAX_SIZE has no effect: ")
    assert load({}, environment={"LIGHTLLM_DEBUG": "1"}).settings.server.log_level == "debug"


def test_doubtful_values_are_warned_of() -> None:
    doubtful = {"router_max_wait_tokens": 512, "flow_steps": 3, "token_hop_len": 30, "http_workers": 200,
                "sample_close": True, "max_lead_s": 2}  # fmt: skip
    warnings = "\n".join(load(doubtful).warnings)
    assert "a new request may wait 512 decoding steps, about 5.1 s" in warnings
    assert "flow_steps 3" in warnings
    assert "token_hop_len 30" in warnings
    assert "http_workers 200" in warnings
    assert "greedy" in warnings
    assert "max_lead_s 2: below 4 a stream that has rested may lack codes" in warnings


WORDS = st.one_of(
    st.sampled_from([f"--{name}" for name in (*flag_names(), *setting_specs())]),
    st.sampled_from(["true", "False", "0", "-1", "1e9", "nan", "triton_int8kv", "--no-", "--", "-", "=", "--mode="]),
    st.text(max_size=12),
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(WORDS, max_size=8))
def test_arbitrary_words_give_a_configuration_or_one_line(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    try:
        status = launch(API_SERVER, ["--print_config", *words])
    except SystemExit as stop:
        status = int(stop.code or 0)
    err = capfd.readouterr().err
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if ": warning: " not in line]
    assert (status, len(lines)) in ((0, 0), (2, 1)), err


@given(
    st.sampled_from(sorted(OLD_NAMES)),
    st.one_of(
        st.text(),
        st.integers(),
        st.floats(),
        st.booleans(),
        st.lists(st.text()),
        st.dictionaries(st.text(), st.text()),
    ),
)
def test_any_value_of_an_old_name_is_taken_or_refused_with_one_sentence(name: str, value: object) -> None:
    refusal = None
    try:
        read_old_name(name, value, f"--{name}")
    except ConfigError as error:
        refusal = str(error)
    assert refusal is None or (refusal.startswith(f"--{name}") and "\n" not in refusal)
