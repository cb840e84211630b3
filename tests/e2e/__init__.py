"""The house as its users meet it: real processes, real weights, the official client."""
