"""Reading back: the event log, curves, logs and traces."""
