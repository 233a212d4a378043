#!/usr/bin/env bash
# An environment for each peer of benchmarks/data_path.py, in the folder given; versions as measured.
set -euo pipefail
home=${1:?usage: environments.sh FOLDER}
make_environment() {
  local name=$1
  shift
  [ -x "$home/$name/bin/python" ] || python3 -m venv "$home/$name"
  "$home/$name/bin/pip" install --quiet "$@"
}
make_environment litdata torch==2.13.0
make_environment litdata litdata==0.2.76 tokenizers orjson
make_environment mds torch==2.13.0
# Without what it needs for clouds and images only.
make_environment mds --no-deps mosaicml-streaming==0.13.0
make_environment mds tokenizers transformers orjson zstd zstandard brotli python-snappy xxhash pyyaml psutil tqdm \
  requests fsspec boto3 azure-storage-blob google-cloud-storage oci paramiko pillow catalogue torchvision
make_environment dolma dolma==1.2.1
make_environment megatron torch==2.13.0
make_environment megatron --no-deps megatron-core==0.16.1
make_environment megatron numpy packaging transformers sentencepiece gigatoken awkward orjson tokenizers
