#!/usr/bin/env bash
# Prepares a dataset on Google Cloud Dataflow; see --help.
set -euo pipefail

usage() {
  cat <<END
usage: launch/prepare_dataflow.sh --project PROJECT --region REGION --bucket gs://BUCKET --image IMAGE [--workers N]
         [--dry_run] ARGUMENTS-OF-i3d_jax.prepare

Prepares a dataset on Dataflow. Videos and dataset are in a bucket, gs://..., since Dataflow's images mount no shared
file system. IMAGE is one of yours that holds this checkout, as launch/Dockerfile makes it, and this machine has the
same checkout with the extras \`all\` and \`beam\` on Python 3.12. Not tried on Dataflow yet.
The bucket of --bucket takes Beam's temporary files. --dry_run prints the command in place of running it. PYTHON names
the interpreter (default: python).
Started again, it makes the shards that are missing.

  docker build -f launch/Dockerfile -t us-docker.pkg.dev/my-project/images/i3d_jax .
  docker push us-docker.pkg.dev/my-project/images/i3d_jax

  launch/prepare_dataflow.sh --project my-project --region us-central1 --bucket gs://my-bucket --workers 64 \\
    --image us-docker.pkg.dev/my-project/images/i3d_jax --dialect kinetics --annotations train.csv validate.csv \\
    --videos gs://my-bucket/kinetics400 --output gs://my-bucket/datasets/kinetics400
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
project=
region=
bucket=
image=
workers=16
dry_run=
while (($#)); do
  case $1 in
    --help | -h) usage; exit ;;
    --dry_run) dry_run=yes; shift; continue ;;
    --project | --region | --bucket | --image | --workers) (($# > 1)) || mistake "$1 needs a value" ;;
    *) break ;;
  esac
  case $1 in
    --project) project=$2 ;;
    --region) region=$2 ;;
    --bucket) bucket=$2 ;;
    --image) image=$2 ;;
    --workers) workers=$2 ;;
  esac
  shift 2
done
if [ -z "$project" ] || [ -z "$region" ] || [ -z "$bucket" ] || [ -z "$image" ]; then
  mistake "--project, --region, --bucket and --image are needed, before the arguments of i3d_jax.prepare"
fi
command=("${PYTHON:-python}" -m i3d_jax.prepare "$@" --runner DataflowRunner -- \
  --project="$project" --region="$region" --temp_location="$bucket/temporary" --staging_location="$bucket/staging" \
  --sdk_container_image="$image" --num_workers="$workers" --max_num_workers="$workers")
if [ -n "$dry_run" ]; then
  printf '%q ' "${command[@]}"
  echo
  exit
fi
exec "${command[@]}"
