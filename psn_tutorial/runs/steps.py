"""What every figure of a step record means, and by which estimator it is taken."""

METRICS = {
    "step": "number of the step, from 1",
    "reward": "mean reward of the step's rollouts (of the noisy sampler, not of the clean policy)",
    "solved": "share of prompts with at least one correct rollout",
    "zero_contrast": "share of groups whose rewards are all equal: they give no gradient",
    "sigma": "noise asked for at this step; 0 without noise",
    "sigma_realised": "root mean square of the change of the perturbed weights, after the cast to their type",
    "unchanged_fraction": "share of perturbed entries that the cast left as they were",
    "noise_to_update": "length of the noise over the length of the optimiser's change, on the perturbed weights",
    "ess": "effective sample size of the uncapped importance ratios over their number, in (0, 1]",
    "clipped_fraction": "share of importance ratios above the cap",
    "kl_k1": "KL(sampler || policy), nats per token: mean of log mu - log pi (k1: unbiased, can be negative)",
    "kl_k3": "the same KL by k3: mean of w - 1 - log w (unbiased, never negative)",
    "mean_ratio": "mean uncapped importance ratio pi / mu; its expectation is 1",
    "max_ratio": "largest uncapped importance ratio",
    "loss": "value of the loss that was differentiated (its sign and size mean little)",
    "ratio_mean": "mean of the clipping ratio pi now / pi at rollout time; 1 at the first update",
    "clip_fraction": "share of tokens whose gradient the clipping removes",
    "kl_ref": "KL(policy || base) by k3, nats per token; only with a KL term",
    "entropy": "mean entropy of the clean policy's next-token distributions, nats, over the rollouts that learn",
    "grad_norm": "gradient norm before it is clipped",
    "similarity": "mean cosine similarity of the sentence embeddings of a group's answers, over pairs, then groups; "
    "schedule realtime only",
    "self_certainty": "KL(uniform || policy), or the other way round, nats per token: mean over all completion tokens "
    "of the clean policy's next-token distributions, before the first update; schedule realtime only",
    "tokens": "completion tokens sampled, end tokens included",
    "seconds_sample": "time for noise and sampling",
    "seconds_verify": "time for the verifier and the advantages",
    "seconds_update": "time for log-probs, weights, loss and optimiser",
    "seconds_schedule": "time for the signals of the real-time schedule (its certainty is taken during the update)",
    "seconds": "time of the whole step",
}
