"""What training.balance stands on: cells of rows, generalized raking, whole quotas, certificates, the report."""
