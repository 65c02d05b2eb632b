"""A local Airflow for the demo: starting it, following runs through its REST API, and stopping all its processes."""
