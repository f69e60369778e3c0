from light_tts.metrics import Metrics


def lines(metrics):
    return metrics.render().decode().splitlines()


def test_every_series_exists_before_the_first_request():
    text = lines(Metrics(["/speak"], ["/speak", "other"]))
    for name in (
        "lightllm_request_count_total 0.0",
        "lightllm_request_success_total 0.0",
        "lightllm_request_failure_total 0.0",
        "first_token_latency_seconds_count 0.0",
        'lightllm_request_latency_seconds_bucket{le="0.05",route="/speak"} 0.0',
        'request_length_chars_count{route="/speak"} 0.0',
        "tts_requests_in_flight 0.0",
        "tts_requests_queued 0.0",
        'tts_requests_rejected_total{reason="overloaded"} 0.0',
        "tts_requests_aborted_total 0.0",
        "tts_rtf_count 0.0",
        "tts_audio_seconds_total 0.0",
        'tts_llm_tokens_total{kind="speech"} 0.0',
        "tts_stream_underrun_seconds_count 0.0",
        "tts_engine_up 0.0",
        "tts_engine_restarts_total 0.0",
        "tts_requests_retried_total 0.0",
        "tts_llm_step_seconds_count 0.0",
        "tts_llm_batch_size_count 0.0",
        "tts_flow_step_seconds_count 0.0",
        "tts_flow_batch_size_count 0.0",
        "tts_vocoder_seconds_count 0.0",
        "tts_kv_blocks_used 0.0",
        "tts_kv_blocks_total 0.0",
        "tts_voice_cache_hits_total 0.0",
        "tts_voice_cache_misses_total 0.0",
        "tts_voice_cache_entries 0.0",
        'tts_http_responses_total{route="other",status="5xx"} 0.0',
    ):
        assert name in text


def test_two_servers_in_one_process_count_apart():
    first, second = Metrics(), Metrics()
    first.requests.inc()
    assert "lightllm_request_count_total 1.0" in lines(first)
    assert "lightllm_request_count_total 0.0" in lines(second)
