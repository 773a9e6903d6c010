"""For the notebooks: exact oracles, the index of the paper, exercises."""
