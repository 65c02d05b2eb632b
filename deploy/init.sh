#!/bin/sh
# What must be there before Airflow starts: the database schema, the pools, the administrator and the bucket. Safe to repeat.
# Reads LVR_DECODE_SLOTS, LVR_MODELS_SLOTS, LVR_ADMIN_USER, LVR_ADMIN_EMAIL, LVR_ADMIN_PASSWORD, LVR_BUCKET and the AWS_* variables.
set -eu

airflow db migrate
airflow pools set lvr_decode "$LVR_DECODE_SLOTS" "Tasks that decode video, half of the cores each"
airflow pools set lvr_models "$LVR_MODELS_SLOTS" "Tasks that keep a model server busy"
# An administrator who exists is left alone, password and all: `airflow users reset-password` changes it.
airflow users create --role Admin --username "$LVR_ADMIN_USER" --password "$LVR_ADMIN_PASSWORD" \
    --email "$LVR_ADMIN_EMAIL" --firstname Dataset --lastname Administrator
python -c 'import os, s3fs; s3, bucket = s3fs.S3FileSystem(), os.environ["LVR_BUCKET"]; s3.exists(bucket) or s3.mkdir(bucket)'
