"""What users install: the client, the command line, webhook verification, and the embedded installation."""
