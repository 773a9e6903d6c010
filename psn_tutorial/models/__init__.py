"""The models: tiny Qwens made here, language models with an adapter, and the forward pass that all share."""
