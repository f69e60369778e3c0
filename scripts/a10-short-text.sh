#!/usr/bin/env bash
# Start the server for texts below 100 characters on an NVIDIA A10: the launch line of its guide, above preset a10-short.
# Arguments are added at the end, where they win.  MODEL_DIR names another model directory.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

exec "${PYTHON:-python}" -m light_tts.server.api_server \
  --preset a10-short \
  --model_dir "${MODEL_DIR:-./pretrained_models/CosyVoice2-0.5B-latest}" \
  --host 0.0.0.0 \
  --port 8080 \
  --httpserver_workers 6 \
  --encode_process_num 2 \
  --encode_paral_num 4 \
  --gpt_paral_num 80 \
  --gpt_paral_step_num 50 \
  --decode_process_num 2 \
  --decode_paral_num 3 \
  --decode_max_batch_size 1 \
  --max_total_token_num 16384 \
  --max_req_total_len 2048 \
  --batch_max_tokens 1024 \
  --load_trt true \
  --disable_cudagraph false \
  --graph_max_batch_size 2 \
  --graph_max_len_in_batch 512 \
  --mode triton_flashdecoding,triton_int8kv \
  --cache_capacity 500 \
  --cache_reserved_ratio 0.7 \
  --router_max_wait_tokens 2 \
  --router_max_new_token_len 512 \
  --timeout_keep_alive 2 \
  --disable_log_stats false \
  --log_stats_interval 5 \
  "$@"
