#!/bin/sh
# The main job, then what came of it.
set -eu
export DVC_NO_ANALYTICS=1 DVC_SITE_CACHE_DIR="$PWD/.dvc/tmp/site-cache"
dvc repro
python -m tasks.summary --metrics reports/metrics.json --report reports/report.html
