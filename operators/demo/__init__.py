"""What `lvr demo` needs: demo films with known truth, and an Airflow on this machine."""
