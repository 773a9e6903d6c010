"""PSN-GRPO inside TRL: ``PSNConfig`` for ``GRPOConfig``, ``PSNGRPOTrainer`` for ``GRPOTrainer``.

    from psn_tutorial.integrations.trl import PSNConfig as GRPOConfig, PSNGRPOTrainer as GRPOTrainer

What differs from TRL's trainer, and through which of its public hooks (trl 1.16):

    rollout_func   while training, completions come from the noisy policy, with its log-probs; in evaluations from the
                   clean one. With ``mixture`` the log-probs are those of the mixture of a group's draws
    compute_loss   the advantages [B] become w_t A [B, T], w_t = min(pi / mu, C) of :mod:`psn_tutorial.importance`;
                   log pi comes from the loss's own forward pass
    callbacks      after an optimiser step the scheduler gets the mean reward, the statistics of the ratios, before the
                   cap, and with probes "separate" those of two more answers to each prompt; its state is saved with
                   each checkpoint
    reward_funcs   listened to, for that mean reward
    log            the statistics go wherever TRL logs, as psn/sigma, psn/ess, psn/kl_k1 ...

Weights are clean whenever TRL looks at them: in evaluations, in checkpoints, in the update. With sigma 0 nothing of
this is there, and the trainer is TRL's own bit for bit. Source of the method: arXiv 2602.02555.

TRL's default loss, "dapo", averages over the tokens of a batch; the paper's, over the tokens of each answer, is "grpo".
In bfloat16, sampling and scoring round differently, which the ratios contain too: kl_k3 has a floor that no sigma takes
away. Dropout would be one more difference: leave it at 0.

vLLM was not run: the path was tested against a stand-in that has its methods. There the noise is added in place, the
engine loads the noisy weights (``sync_weights``), the clean ones come back, and TRL corrects, as its own
``vllm_importance_sampling_mode`` says, which PSNConfig sets. Weights in shards (FSDP, DeepSpeed ZeRO-3) take the noise
beside them, by the carrier "lowrank": on CPUs it gives bitwise the same logits under torch's fully_shard, but no
training in shards was run.
"""

from psn_tutorial.integrations.trl.config import PSNConfig
from psn_tutorial.integrations.trl.trainer import PSNGRPOTrainer

__all__ = ["PSNConfig", "PSNGRPOTrainer"]
