#!/usr/bin/env bash
# The GPU tests, then first figures and stage costs of both full-size families, with and without CUDA graphs.
# Usage: benchmarks/gpu_figures.sh OUTPUT_DIR [FAMILY ...]
set -uo pipefail
cd "$(dirname "$0")/.."
out=$1
shift
export PYTHONPATH=. PYTHONUNBUFFERED=1
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
python3 -m pytest -c /dev/null --rootdir . -p no:cacheprovider --import-mode=importlib -q -m gpu \
  -W ignore::pytest.PytestUnknownMarkWarning tests/acoustic/test_flow_cuda.py tests/acoustic/test_vocoder.py \
  tests/llm tests/kernels 2>&1 | tee "$out/gpu-tests.txt" | tail -15
for family in "${@:-cosyvoice2}"; do
  dir=/tmp/random-$family
  python3 -m light_tts verify --make-random "$dir" --family "$family" | tail -1
  text=short
  [[ $family == *3 ]] && text=long
  for mode in graphs eager; do
    python3 benchmarks/gpu_first_figures.py --model-dir "$dir" --voice random --streams 1 8 32 --mode "$mode" --text "$text" \
      -o "$out/gpu-first-$family-$mode.json"
  done
  python3 benchmarks/gpu_stages.py --model-dir "$dir" -o "$out/gpu-stages-$family.json"
  rm -rf "$dir"
done
