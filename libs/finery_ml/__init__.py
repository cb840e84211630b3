"""What engines share: the job folder, loading, templates, saving. It knows nothing of NATS or SQL."""
