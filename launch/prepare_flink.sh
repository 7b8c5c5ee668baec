#!/usr/bin/env bash
# Prepares a dataset on an Apache Flink cluster; see --help.
set -euo pipefail

usage() {
  cat <<END
usage: launch/prepare_flink.sh --master HOST:PORT --parallelism N [--environment HOST:PORT] [--dry_run]
         ARGUMENTS-OF-i3d_jax.prepare

Prepares a dataset on a Flink cluster. The folders of videos and of the dataset must stand under the same paths on
all workers, on a shared file system; i3d_jax with its extras \`all\` and \`beam\` must be installed on them.
--environment is where Beam's Python worker pool listens on every worker (default: localhost:50000); start it there by
  python -m apache_beam.runners.worker.worker_pool_main --service_port=50000
--dry_run prints the command in place of running it. PYTHON names the interpreter (default: python). Started again, it
makes the shards that are missing. Where no worker has shown a sign of life for 10 minutes, it ends with exit code 1.
Not tried on Flink yet: the worker pool was, behind Beam's own job server, with a worker killed amid the work
(docs/kinetics_and_other_datasets.md).

  launch/prepare_flink.sh --master flink:8081 --parallelism 64 --dialect kinetics \\
    --annotations train.csv validate.csv --videos /shared/kinetics400 --output /shared/datasets/kinetics400 \\
    --flow tvl1 --flow_backend opencv
END
}

mistake() {
  echo "error: $1" >&2
  exit 2
}

if ! (($#)); then
  usage >&2
  exit 2
fi
master=
parallelism=
environment=localhost:50000
dry_run=
while (($#)); do
  case $1 in
    --help | -h) usage; exit ;;
    --dry_run) dry_run=yes; shift; continue ;;
    --master | --parallelism | --environment) (($# > 1)) || mistake "$1 needs a value" ;;
    *) break ;;
  esac
  case $1 in
    --master) master=$2 ;;
    --parallelism) parallelism=$2 ;;
    --environment) environment=$2 ;;
  esac
  shift 2
done
if [ -z "$master" ] || [ -z "$parallelism" ]; then
  mistake "--master and --parallelism are needed, before the arguments of i3d_jax.prepare"
fi
command=("${PYTHON:-python}" -m i3d_jax.prepare "$@" --runner FlinkRunner -- \
  --flink_master="$master" --parallelism="$parallelism" \
  --environment_type=EXTERNAL --environment_config="$environment")
if [ -n "$dry_run" ]; then
  printf '%q ' "${command[@]}"
  echo
  exit
fi
exec "${command[@]}"
