"""Parameter-space noise for reinforcement learning with verifiable rewards, small enough to read."""

__version__ = "0.1.0"
