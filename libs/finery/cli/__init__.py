"""The command line: one module a group of commands; it holds no logic that the client does not have."""
