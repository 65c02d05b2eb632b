"""The pipeline from long videos to a verified reasoning dataset. Only `operators.airflow` imports Airflow."""
