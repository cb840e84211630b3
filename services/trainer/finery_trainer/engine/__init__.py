"""The tuning programs. They run in the ml environment and know nothing of NATS or SQL."""
