"""The pipeline from long videos to a verified reasoning dataset. Only the `airflow_*` modules import Airflow."""
