"""Names, types, labels and buckets that dashboards and scripts rely on (spec: server, 3.1 and 3.2)."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from light_tts.metrics import Metrics

STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
# name -> (type, labels, buckets of a histogram)
PROMISED = {
    "short_text_latency_seconds": ("histogram", (), (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)),
    "first_token_latency_seconds": ("histogram", (), (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5)),
    "short_text_concurrent_requests": ("gauge", (), None),
    "short_text_cache_hit_rate": ("gauge", (), None),
    "short_text_cache_hits_total": ("counter", (), None),
    "short_text_cache_misses_total": ("counter", (), None),
    "request_length_chars": ("histogram", ("route",), (10, 20, 50, 100, 200, 500, 1000, 5000)),
    "lightllm_request_latency_seconds": ("histogram", ("route",), (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)),
    "lightllm_request_count_total": ("counter", (), None),
    "lightllm_request_success_total": ("counter", (), None),
    "lightllm_request_failure_total": ("counter", (), None),
    "lightllm_gpu_memory_usage_bytes": ("gauge", ("gpu",), None),
    "tts_requests_in_flight": ("gauge", (), None),
    "tts_requests_queued": ("gauge", (), None),
    "tts_requests_rejected_total": ("counter", ("reason",), None),
    "tts_requests_aborted_total": ("counter", (), None),
    "tts_rtf": ("histogram", (), (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2)),
    "tts_audio_seconds_total": ("counter", (), None),
    "tts_llm_tokens_total": ("counter", ("kind",), None),
    "tts_llm_step_seconds": ("histogram", (), STEPS),
    "tts_llm_batch_size": ("histogram", (), SIZES),
    "tts_flow_batch_size": ("histogram", (), SIZES),
    "tts_flow_step_seconds": ("histogram", (), STEPS),
    "tts_vocoder_seconds": ("histogram", (), STEPS),
    "tts_kv_blocks_used": ("gauge", (), None),
    "tts_kv_blocks_total": ("gauge", (), None),
    "tts_voice_cache_hits_total": ("counter", (), None),
    "tts_voice_cache_misses_total": ("counter", (), None),
    "tts_voice_cache_entries": ("gauge", (), None),
    "tts_stream_underrun_seconds": ("histogram", (), (0.001, 0.01, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)),
    "tts_engine_up": ("gauge", (), None),
}


def lines(metrics):
    return metrics.render().decode().splitlines()


def families(metrics):
    text = metrics.render().decode()
    found = {family.name: family for family in text_string_to_metric_families(text)}
    return {f"{name}_total" if family.type == "counter" else name: family for name, family in found.items()}


@pytest.mark.parametrize("name", PROMISED)
def test_a_promised_metric_is_there_before_the_first_request(name):
    kind, labels, buckets = PROMISED[name]
    family = families(Metrics(["/speak"], ["/speak", "other"]))[name]
    assert family.type == kind
    samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
    assert samples, "no series exists from the start"
    assert all(sample.value == 0.0 for sample in samples)
    assert {label for sample in samples for label in sample.labels} - {"le"} == set(labels)
    if buckets is not None:
        found = {float(sample.labels["le"]) for sample in samples if sample.name == f"{name}_bucket"}
        assert found == {*map(float, buckets), float("inf")}


def test_every_metric_has_a_series_from_the_start():
    for name, family in families(Metrics(["/speak"], ["/speak", "other"])).items():
        assert family.samples, name
        assert family.documentation, name


def test_labelled_series_exist_for_every_value():
    text = lines(Metrics(["/speak"], ["/speak", "other"]))
    for name in (
        'lightllm_request_latency_seconds_bucket{le="0.05",route="/speak"} 0.0',
        'request_length_chars_count{route="/speak"} 0.0',
        'tts_requests_rejected_total{reason="overloaded"} 0.0',
        'tts_llm_tokens_total{kind="speech"} 0.0',
        'tts_http_responses_total{route="other",status="5xx"} 0.0',
        'lightllm_gpu_memory_usage_bytes{gpu="0"} 0.0',
    ):
        assert name in text


def test_two_servers_in_one_process_count_apart():
    first, second = Metrics(), Metrics()
    first.requests.inc()
    assert "lightllm_request_count_total 1.0" in lines(first)
    assert "lightllm_request_count_total 0.0" in lines(second)
