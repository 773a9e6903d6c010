"""What each of several processes runs for test_trl.py:

torchrun --nproc_per_node 2 one_of_several.py MODEL_FOLDER OUT

OUT/settings.json holds a list of settings; each process trains with all of them and writes OUT/rank-N.json.
"""

import hashlib
import json
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed
from datasets import Dataset
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM, AutoTokenizer

from psn_tutorial.carriers import carried
from psn_tutorial.integrations.trl import PSNConfig, PSNGRPOTrainer, trainer
from psn_tutorial.noise import NoiseConfig

torch.set_num_threads(1)
folder, out = sys.argv[1], Path(sys.argv[2])
noisy: list[tuple[list[int], str]] = []


def digest(model):
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()


@contextmanager
def watched(model, config, draws):
    with carried(model, config, draws) as receipt:
        noisy.append((draws, digest(model)))
        yield receipt


def reward(completion_ids, **_):
    return [sum(row) % 7 / 7 for row in completion_ids]


def trained(settings, resume_from_checkpoint=None):
    ours = PSNGRPOTrainer(
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        reward,
        PSNConfig(output_dir=str(out), **settings),
        Dataset.from_dict({"prompt": ["Anna has", "apples", "12", "3 more", "now", "buys", "How", "many"]}),
        processing_class=AutoTokenizer.from_pretrained(folder, padding_side="left"),
    )
    noisy.clear()
    ours.train(resume_from_checkpoint)
    logs = [{k: v for k, v in entry.items() if k.startswith("psn/")} for entry in ours.state.log_history]
    world = torch.distributed.get_world_size()
    return {"world": world, "noisy": list(noisy), "learned": digest(ours.model), "logs": logs}


trainer.carried = watched
results = []
for settings in json.loads((out / "settings.json").read_text()):
    results.append(trained(settings))
    if settings.get("save_strategy") == "steps":
        results[-1]["resumed"] = trained(settings, f"{out}/checkpoint-1")

# Weights in shards: noise beside them is that beside the whole ones.
plain, sharded = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for _ in range(2))
for layer in sharded.model.layers:
    fully_shard(layer)
fully_shard(sharded)
ids, noise = torch.arange(28).view(4, 7), NoiseConfig(0.1, carrier="lowrank")
with torch.no_grad():
    clean = plain(ids).logits
    with carried(plain, noise, [1, 2]), carried(sharded, noise, [1, 2]):
        logits = [model(ids).logits for model in (plain, sharded)]
results.append({"sharded": torch.equal(*logits), "noisy": not torch.allclose(clean, logits[0], atol=1e-2)})
(out / f"rank-{torch.distributed.get_rank()}.json").write_text(json.dumps(results))
