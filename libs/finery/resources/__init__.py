"""The client's groups of methods, one module a noun; ``finery.client.Finery`` holds one of each."""
