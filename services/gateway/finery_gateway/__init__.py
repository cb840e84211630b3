"""The gateway: the only public port; answers completions itself, passes the rest to studio."""
