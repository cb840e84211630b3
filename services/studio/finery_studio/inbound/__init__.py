"""What upstream systems say: CloudEvents, by NATS or HTTP, that create work."""
