#!/usr/bin/env bash
# Trains on this machine; see --help.
set -euo pipefail

usage() {
  cat <<END
usage: launch/local.sh [--processes N] [--port PORT] ARGUMENTS-OF-i3d_jax.main
       launch/local.sh [--processes N] [--port PORT] study ARGUMENTS-OF-i3d_jax.study

Trains on all devices of this machine. One process drives them all; with --processes N there are N,
each with one GPU (the first with GPU 0, and so on), which meet at PORT (default 12321).
On SIGTERM all of them save and stop, with several also on Ctrl-C. PYTHON names the interpreter (default: python).

  launch/local.sh --config experiments/quickstart.py --workdir runs/quickstart
  launch/local.sh --processes 8 --config experiments/kinetics.py --config.data.directory=datasets/kinetics400 \\
    --workdir runs/kinetics
END
}

mistake() {
  echo "error: $1" >&2
  exit 2
}

processes=1
port=12321
while (($#)); do
  case $1 in
    --help | -h) usage; exit ;;
    --processes | --port) (($# > 1)) || mistake "$1 needs a number" ;;
    *) break ;;
  esac
  case $1 in
    --processes) processes=$2 ;;
    --port) port=$2 ;;
  esac
  shift 2
done
[[ $processes =~ ^[1-9][0-9]*$ ]] || mistake "--processes must be a number of 1 or more, found '$processes'"
[[ $port =~ ^[1-9][0-9]*$ ]] || mistake "--port must be a number of 1 or more, found '$port'"
if ! (($#)); then
  usage >&2
  exit 2
fi
python=${PYTHON:-python}
module=i3d_jax.main
if [ "$1" = study ]; then
  module=i3d_jax.study
  shift
fi
if [ "$processes" = 1 ]; then
  exec "$python" -m "$module" "$@"
fi

children=()
# What bash starts in the background ignores Ctrl-C: it becomes SIGTERM.
trap 'kill -TERM "${children[@]}" 2>/dev/null || true' TERM INT
for ((number = 0; number < processes; number++)); do
  CUDA_VISIBLE_DEVICES=$number "$python" -m "$module" "$@" \
    --coordinator "localhost:$port" --num_processes "$processes" --process_id "$number" &
  children+=($!)
done
code=0
for child in "${children[@]}"; do
  ended=0
  wait "$child" || ended=$?
  # A signal ends `wait` before it ends the process.
  while kill -0 "$child" 2>/dev/null; do
    ended=0
    wait "$child" || ended=$?
  done
  ((ended == 0)) || code=$ended
done
exit "$code"
