#!/usr/bin/env bash
# Generating and training on one NVIDIA GPU beside transformers and vLLM, as a table; installs nothing and needs
# no network. Everything also runs, at sizes that say nothing, on a CPU: benchmarks/gpu.sh --device cpu --small
set -eu
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" benchmarks/gpu.py "$@"
