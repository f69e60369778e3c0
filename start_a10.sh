#!/usr/bin/env bash
# Start the server set up for an NVIDIA A10; all arguments go on to run_a10_optimized.py.
#   ./start_a10.sh                                                       balanced
#   ./start_a10.sh --workers 1 --decode-proc 1 --precision float16       least delay
#   ./start_a10.sh --workers 3 --decode-proc 3                           most speech
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

# An environment, if one is configured and none is active: of direnv, or in .venv.
if [[ -f "$here/.envrc" ]] && command -v direnv >/dev/null; then
  eval "$(cd "$here" && direnv export bash)"
elif [[ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" && -f "$here/.venv/bin/activate" ]]; then
  # shellcheck disable=SC1091
  source "$here/.venv/bin/activate"
fi

export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES-0}"
exec "${PYTHON:-python}" "$here/run_a10_optimized.py" "$@"
