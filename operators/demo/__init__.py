"""What `lvr demo` needs: sample films with known truth, and an Airflow on this machine."""
