"""The words that settings may hold; those of the sites and carriers of noise are explained in sites.py and carriers.py.

Apart from the functions that they choose between, so that a command line and a record can be read without torch.
"""

# noise
TARGETS = ("mlp", "attention", "embeddings", "head", "norms", "all")
LINEAR_TARGETS = ("mlp", "attention", "head")  # whose weights are matrices of linear layers
LAYERS = ("all", "first", "middle", "last")  # thirds of the depth; or a range, see sites.py
CARRIERS = ("auto", "weights", "dense", "lowrank")
SPREADS = ("pooled", "per_group")
LARGEST_SIGMA = 1e6  # beyond, weights and sums of squares leave the range of their types
# importance correction
LEVELS = ("token", "sequence")
CORRECTIONS = (*LEVELS, "none")
MODES = ("truncate", "mask")
# advantages and loss
SCALES = ("std", "none")
ADVANTAGES = (*SCALES, "pass_at_k")
GATES = ("none", "unsolved")
AGGREGATIONS = ("grpo", "dapo", "dr_grpo")
# what the real-time schedule looks at
PROBES = ("reuse", "separate")
DIRECTIONS = ("uniform_to_policy", "policy_to_uniform")
# the machine
COMPUTE_TYPES = ("float32", "bfloat16")
DEVICES = ("auto", "cpu", "cuda")
