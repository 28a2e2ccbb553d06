#!/bin/sh
# Run the pipeline and print the result.
set -eu
python -m tasks.params --quiet
dvc repro
python -m tasks.summary --metrics reports/metrics.json --report reports/report.html
