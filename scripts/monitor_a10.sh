#!/usr/bin/env bash
# The GPU and the server at a glance, again and again: utilisation, memory, temperature, processes, latencies.
#
# Usage:  scripts/monitor_a10.sh [URL]          the server, default http://localhost:8080
#         INTERVAL_S=2   seconds between two looks
#         COUNT=0        looks before it ends; 0: until it is stopped
#         GPU=0          index of the GPU, as nvidia-smi counts
set -euo pipefail

url=${1:-http://localhost:8080}
interval_s=${INTERVAL_S:-2}
count=${COUNT:-0}
gpu=${GPU:-0}
server='^[^ ]*python[^ ]* .*(light[-_]tts|tts_api_server|run_a10_optimized|wsgi_wrapper)'

show_gpu() {
    local row utilization used_mib total_mib temperature
    # Without "nounits" every field carries its unit; the fields come in the order of the query, comma separated.
    if ! row=$(nvidia-smi --id="$gpu" --format=csv,noheader,nounits \
        --query-gpu=utilization.gpu,memory.used,memory.total,temperature.gpu 2>/dev/null); then
        echo "gpu: nvidia-smi does not answer"
        return
    fi
    IFS=', ' read -r utilization used_mib total_mib temperature <<<"$row"
    echo "gpu $gpu: utilisation ${utilization}%, memory ${used_mib}/${total_mib} MiB, temperature ${temperature} C"
}

show_server() {
    local page
    echo "processes: $(pgrep -fc "$server" || true)"
    if ! page=$(curl -fsS --max-time 2 "$url/metrics" 2>/dev/null); then
        echo "server: no answer from $url/metrics"
        return
    fi
    awk '
        function mean_ms(name) { return n[name "_count"] ? sprintf("%.1f", 1000 * n[name "_sum"] / n[name "_count"]) : "-" }
        !/^#/ && NF == 2 { n[$1] = $2 }
        END {
            latency = "short_text_latency_seconds"; first = "first_token_latency_seconds"
            printf "short_text_latency: count %d, mean %s ms\n", n[latency "_count"], mean_ms(latency)
            printf "first_token_latency: count %d, mean %s ms\n", n[first "_count"], mean_ms(first)
            printf "concurrent_requests: short texts %d, all %d, queued %d\n", \
                n["short_text_concurrent_requests"], n["tts_requests_in_flight"], n["tts_requests_queued"]
            printf "cache_hit_rate: %.2f\n", n["short_text_cache_hit_rate"]
        }' <<<"$page"
}

for ((look = 1; ; look++)); do
    date '+== %F %T'
    show_gpu
    show_server
    ((look == count)) && break
    sleep "$interval_s"
done
