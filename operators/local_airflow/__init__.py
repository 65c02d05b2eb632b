"""A local Airflow for the demo: started, followed through its REST API, and stopped with everything it started."""
