#!/usr/bin/env bash
# Ten minutes of one H100 or H200: full-size architectures with random weights beside core's samplers.
#
#     bash benchmarks/on_a_card.sh [--small] [FILE]
#
# FILE (benchmarks/card.jsonl) gets a line for each part as soon as it is measured; run again with the same FILE, the
# parts that it lacks are made. --small tries all of it on small models, on any machine.
#
# COMFYUI_PATH: a ComfyUI that is here. PYTHON: a Python that has torch and what that ComfyUI needs, where it is not
# the ComfyUI's own. CARD_SECONDS: for all of it, 570 unless it is given.
set -u
cd "$(dirname "$0")/.."

size=full
if [ "${1:-}" = --small ]; then
    size=small
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # threads would wait for one another most of the time
    shift
fi
file=${1:-benchmarks/card.jsonl}
if [ -n "${PYTHON:-}" ]; then export COMFYUI_FEWSTEP_INSIDE=1; fi
ends=$((SECONDS + ${CARD_SECONDS:-570}))
status=0 before=-1
touch "$file"

# A process that dies leaves a line that says which part was begun, and the next one begins behind it.
while left=$((ends - SECONDS)) && [ "$left" -gt 20 ] && [ "$(wc -l <"$file")" -ne "$before" ]; do
    before=$(wc -l <"$file")
    timeout --kill-after=5 "$left" "${PYTHON:-python3}" benchmarks/full_size.py \
        --size "$size" --seconds $((left - 10)) --out "$file"
    status=$?
    # 0: all parts are made or left out. 124: out of time.
    case $status in 0 | 124) break ;; esac
    echo "the process ended with $status; the parts that are left are made in a new one" >&2
done
exit "$status"
