"""Airflow operators, task groups, form parameters and connections. The only package that imports Airflow."""
