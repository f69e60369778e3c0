"""`scripts/monitor_a10.sh` against a server's real metrics and a driver's tool that answers only what it is asked."""

import os
import re
import subprocess
from pathlib import Path

import httpx2
import pytest

from light_tts.server.app import create_app

from .conftest import serving

SCRIPT = Path(__file__).parents[2] / "scripts" / "monitor_a10.sh"
# Answers the fields in the order of the query, as the real one does.
NVIDIA_SMI = """#!/usr/bin/env bash
declare -A value=([utilization.gpu]=87 [memory.used]=7012 [memory.total]=23028 [temperature.gpu]=61)
for word in "$@"; do
    case $word in
        --query-gpu=*) IFS=, read -ra fields <<<"${word#*=}" ;;
        --format=csv,noheader,nounits) is_plain=1 ;;
    esac
done
[[ ${is_plain:-} ]] || exit 2
row=""
for field in "${fields[@]}"; do row+="${row:+, }${value[$field]}"; done
echo "$row"
"""


@pytest.fixture
def tools(tmp_path):
    """A directory for PATH with the driver's tool in it."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(NVIDIA_SMI)
    tool.chmod(0o755)
    return tmp_path


def look(url, path, **variables):
    environment = {**os.environ, "PATH": path, "INTERVAL_S": "0", **variables}
    return subprocess.run(
        [SCRIPT, url], env=environment, capture_output=True, text=True, timeout=30, check=True
    ).stdout.splitlines()


def test_every_look_has_the_gpu_in_its_columns_and_the_servers_metrics(engine, settings, tools):
    with serving(create_app(engine, settings), settings) as url:
        httpx2.post(url + "/inference_short", json={"text": "hello"})
        lines = look(url, f"{tools}:{os.environ['PATH']}", COUNT="2")
    assert len(lines) == 14
    assert sum(line.startswith("== ") for line in lines) == 2
    assert lines[1] == "gpu 0: utilisation 87%, memory 7012/23028 MiB, temperature 61 C"
    assert re.fullmatch(r"processes: \d+", lines[2])
    assert re.fullmatch(r"short_text_latency: count 1, mean \d+\.\d ms", lines[3])
    assert re.fullmatch(r"first_token_latency: count 1, mean \d+\.\d ms", lines[4])
    assert lines[5] == "concurrent_requests: short texts 0, all 0, queued 0"
    assert lines[6] == "cache_hit_rate: 0.00"


def test_without_a_gpu_and_without_a_server_it_says_so_and_goes_on(tmp_path):
    broken = tmp_path / "nvidia-smi"
    broken.write_text("#!/bin/sh\nexit 9\n")
    broken.chmod(0o755)
    lines = look("http://127.0.0.1:1", f"{tmp_path}:{os.environ['PATH']}", COUNT="1")
    assert lines[1] == "gpu: nvidia-smi does not answer"
    assert lines[3] == "server: no answer from http://127.0.0.1:1/metrics"


def test_the_greps_of_the_guides_find_lines_on_an_idle_server(app):
    page = app.state.server.observer.page().decode()
    for words in ("short_text_latency|first_token_latency|concurrent_requests", "request_length", "lightllm_request"):
        assert re.search(words, page)
