"""The glossary of steps.jsonl: each figure's name on an axis, what it is, and by which estimator it is taken."""

from typing import NamedTuple


class StepFigure(NamedTuple):
    """label: its name on the axis of a picture; meaning: what it is, with its unit."""

    label: str
    meaning: str


FIGURES = {
    "step": StepFigure("training step", "number of the step, from 1"),
    "reward": StepFigure(
        "mean reward of the rollouts",
        "mean reward of the step's rollouts (of the noisy sampler, not of the clean policy)",
    ),
    "solved": StepFigure(
        "problems with a correct rollout (share)",
        "share of prompts with at least one correct rollout",
    ),
    "zero_contrast": StepFigure(
        "groups without contrast (share)",
        "share of groups whose rewards are all equal: they give no gradient",
    ),
    "gated": StepFigure(
        "groups with contrast that the gate leaves out (share)",
        "share of groups that have contrast but do not learn, because an earlier step solved their problem; gate only",
    ),
    "sigma": StepFigure("sigma asked for", "noise asked for at this step; 0 without noise"),
    "sigma_realised": StepFigure(
        "noise realised (RMS)",
        "root mean square of the change of the perturbed weights, after the cast to their type",
    ),
    "unchanged_fraction": StepFigure(
        "perturbed weights left as they were (share)",
        "share of perturbed entries that the cast left as they were",
    ),
    "noise_to_update": StepFigure(
        "norm of noise / norm of update",
        "length of the noise over the length of the optimiser's change, on the perturbed weights",
    ),
    "ess": StepFigure(
        "effective sample size / n, unclamped",
        "effective sample size of the uncapped importance ratios over their number, in (0, 1]",
    ),
    "clipped_fraction": StepFigure("weights above the cap (share)", "share of importance ratios above the cap"),
    "kl_k1": StepFigure(
        "KL per token (k1, nats)",
        "KL(sampler || policy), nats per token: mean of log mu - log pi (k1: unbiased, can be negative)",
    ),
    "kl_k3": StepFigure(
        "KL per token (k3, nats)",
        "the same KL by k3: mean of w - 1 - log w (unbiased, never negative)",
    ),
    "mean_ratio": StepFigure("mean importance ratio", "mean uncapped importance ratio pi / mu; its expectation is 1"),
    "max_ratio": StepFigure("largest importance ratio", "largest uncapped importance ratio"),
    "loss": StepFigure("loss", "value of the loss that was differentiated (its sign and size mean little)"),
    "ratio_mean": StepFigure(
        "mean clipping ratio",
        "mean of the clipping ratio pi now / pi at rollout time; 1 at the first update",
    ),
    "clip_fraction": StepFigure(
        "tokens without gradient by clipping (share)",
        "share of tokens whose gradient the clipping removes",
    ),
    "kl_ref": StepFigure(
        "KL to the base per token (k3, nats)",
        "KL(policy || base) by k3, nats per token; only with a KL term",
    ),
    "entropy": StepFigure(
        "entropy per token (nats)",
        "mean entropy of the clean policy's next-token distributions, nats, over the rollouts that learn",
    ),
    "grad_norm": StepFigure("gradient norm before clipping", "gradient norm before it is clipped"),
    "similarity": StepFigure(
        "similarity within a group (cosine)",
        "mean cosine similarity of the sentence embeddings of a group's answers, over pairs, then groups; "
        "schedule realtime only",
    ),
    "self_certainty": StepFigure(
        "self-certainty per token (nats)",
        "KL(uniform || policy), or the other way round, nats per token: mean over all completion tokens of "
        "the clean policy's next-token distributions, before the first update; schedule realtime only",
    ),
    "tokens": StepFigure("completion tokens per step", "completion tokens sampled, end tokens included"),
    "seconds_sample": StepFigure("seconds of sampling per step", "time for noise and sampling"),
    "seconds_verify": StepFigure("seconds of verifying per step", "time for the verifier and the advantages"),
    "seconds_update": StepFigure("seconds of the update per step", "time for log-probs, weights, loss and optimiser"),
    "seconds_schedule": StepFigure(
        "seconds of the schedule's signals per step",
        "time for the signals of the real-time schedule (its certainty is taken during the update)",
    ),
    "seconds": StepFigure("seconds per step", "time of the whole step"),
}
METRICS = {name: figure.meaning for name, figure in FIGURES.items()}
