"""The models: tiny Qwens made here, language models with an adapter, and the forward pass that all share."""

COMPUTE_TYPES = ("float32", "bfloat16")
DEVICES = ("auto", "cpu", "cuda")
