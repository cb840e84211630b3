"""What services share: database, delivery, bus, jobs, settings, telemetry. It knows no service and no engine."""
