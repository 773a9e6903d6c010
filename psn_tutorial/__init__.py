"""Parameter-space noise for reinforcement learning with verifiable rewards, small enough to read.

The names a notebook wants are here too: ``from psn_tutorial import NoiseConfig, perturbed``. Each
is defined in one module and loaded from it on first use, so that ``import psn_tutorial`` is quick.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "advantages": ("group_advantages", "pass_at_k_advantages"),
    "carriers": ("carried",),
    "config": ("RunConfig", "TrainConfig"),
    "errors": ("UserError",),
    "evaluation.estimators": ("pass_at_k", "pass_at_k_interval"),
    "evaluation.intervals": ("paired_difference",),
    "evaluation.metrics": ("summarise",),
    "evaluation.probes": ("Probe", "Sampler"),
    "evaluation.probing": ("probe",),
    "evaluation.sampling": ("evaluate", "exact_success"),
    "experiments.presets": ("preset",),
    "experiments.results": ("read_comparison",),
    "experiments.run": ("run_comparison",),
    "importance": ("importance_weights", "mixture_logps"),
    "jobs.malloc": ("keep_freed_memory",),
    "jobs.policies": ("load_policy",),
    "jobs.records": ("RunRecord",),
    "losses": ("policy_loss",),
    "models.bases": ("base_folder",),
    "models.encoders": ("sentence_encoder",),
    "models.policy": ("Policy", "Prompts", "encode"),
    "models.qlora": ("QLoRAConfig", "load_qlora"),
    "noise": ("NoiseConfig", "NoiseReceipt", "perturbed", "stacked", "stream"),
    "rollout": ("Rollouts", "completion_logps", "responses", "sample", "spread_draws"),
    "schedulers": ("AnnealedSigma", "ConstantSigma", "KLTargetSigma", "RealtimeSigma"),
    "signals": ("self_certainty", "semantic_similarity"),
    "tasks": ("get_task", "load_split", "register_task"),
    "tasks.math": ("load_problems", "verify_math"),
    "trainer": ("Trainer",),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted(_MODULE)


def __getattr__(name: str) -> Any:
    """Load an exported name on its first use (PEP 562)."""
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
