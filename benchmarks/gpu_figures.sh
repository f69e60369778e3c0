#!/usr/bin/env bash
# The GPU tests, then first figures and stage costs of both full-size families.
# Usage: benchmarks/gpu_figures.sh OUTPUT_DIR [FAMILY ...]
set -uo pipefail
cd "$(dirname "$0")/.."
out=$1
shift
export PYTHONPATH=. PYTHONUNBUFFERED=1
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
python3 -m pytest -c /dev/null --rootdir . -p no:cacheprovider --import-mode=importlib -q -m gpu \
  tests/acoustic/test_flow_cuda.py tests/acoustic/test_vocoder.py tests/llm/test_cuda.py 2>&1 | tee "$out/gpu-tests.txt" | tail -15
for family in "${@:-cosyvoice2}"; do
  dir=/tmp/random-$family
  time python3 -m light_tts verify --make-random "$dir" --family "$family" | tail -2
  python3 benchmarks/gpu_first_figures.py --model-dir "$dir" --voice random --streams 1 8 32 \
    -o "$out/gpu-first-$family.json"
  python3 benchmarks/gpu_stages.py --model-dir "$dir" -o "$out/gpu-stages-$family.json"
  rm -rf "$dir"
done
