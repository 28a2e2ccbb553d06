#!/bin/sh
# The main job, then what came of it.
set -eu
python -m tasks.params --quiet
dvc repro
python -m tasks.summary --metrics reports/metrics.json --report reports/report.html
