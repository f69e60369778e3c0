"""Environment variables of the known servers. Others that begin like theirs are ignored."""

from __future__ import annotations

from collections.abc import Mapping

# Variable -> name of the table or of a setting.
VARIABLES: Mapping[str, str] = {
    "LIGHTTTS_DATA_TYPE": "data_type",
    "LIGHTLLM_LOG_LEVEL": "log_level",
    "LIGHTLLM_LOG_DIR": "log_dir",
    "LIGHTLLM_DEBUG": "lightllm_debug",
    "LIGHTLLM_OUT_TOKEN_QUEUE_SIZE": "out_token_queue_size",
    "LIGHTTTS_STREAM_AUDIO_MAX_SIZE": "stream_audio_max_size",
    "HEALTH_CHECK_INTERVAL_SECONDS": "health_check_interval_s",
    "DEBUG_HEALTHCHECK_RETURN_FAIL": "debug_health_fails",
}
