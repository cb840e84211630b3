"""The embedded serving engine: a model folder behind OpenAI's HTTP where vLLM does not run. It knows no bus."""

import os

# Both are read once, when torch and transformers are first imported. Spinning OpenMP threads starve every other process
# of a small machine, and nothing here may ever look for a model outside the folder it was given.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
