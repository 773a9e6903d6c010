"""The importance ratios of TRL's rollouts: the sampler's side, and statistics over micro-batches and processes."""

from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from psn_tutorial.importance import ImportanceWeights


class SamplerLogps(LogitsProcessor):
    """Keeps the log-probs of the tokens that ``generate`` samples, and changes nothing.

    It is shown the logits of every next token [B, V] before the temperature, and learns which token was chosen one call
    later. One vocabulary's logits per row are kept, not those of the whole answer.
    """

    def __init__(self, temperature: float) -> None:
        self.temperature, self.logits, self.logps = temperature, None, []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._keep(input_ids)
        self.logits = scores.float() / self.temperature
        return scores

    def _keep(self, ids: Tensor) -> None:
        if self.logits is not None:
            chosen = self.logits.gather(1, ids[:, -1:])[:, 0]
            self.logps.append(chosen - self.logits.logsumexp(-1))

    def all(self, ids: Tensor) -> Tensor:
        """[B, T] of the T tokens at the end of what ``generate`` returned."""
        self._keep(ids)
        return torch.stack(self.logps, 1)


class RatioSums:
    """Statistics of the importance ratios of several micro-batches, on several processes, as those of one batch."""

    def __init__(self) -> None:
        self.sums, self.largest = torch.zeros(8, dtype=torch.float64), 0.0

    def add(self, found: ImportanceWeights, mask: Tensor, level: str, certainty: float = 0.0) -> None:
        """One micro-batch, mask [B, T]; certainty: the sum over its tokens."""
        tokens = int(mask.sum())
        n = int(mask.any(1).sum()) if level == "sequence" else tokens
        total = n * found.mean_ratio
        squares = total**2 / (n * found.ess)  # ess = (sum w)^2 / (n sum w^2)
        of_tokens = [tokens * found.kl_k1, tokens * found.kl_k3, certainty]
        self.sums += torch.tensor([tokens, n, total, squares, n * found.clipped_fraction, *of_tokens])
        self.largest = max(self.largest, found.max_ratio)

    def means(self, accelerator: Any) -> dict[str, float]:
        """The statistics over all processes, by the names of :class:`ImportanceWeights`; {} without a token."""
        wide = torch.float32 if accelerator.device.type == "mps" else torch.float64
        sums = accelerator.reduce(self.sums.to(accelerator.device, wide), reduction="sum").tolist()
        largest = accelerator.gather(torch.tensor([self.largest], device=accelerator.device)).max().item()
        tokens, n, total, squares, clipped, k1, k3, certainty = sums
        if not tokens:
            return {}
        return {
            "ess": total**2 / (n * squares),
            "clipped_fraction": clipped / n,
            "kl_k1": k1 / tokens,
            "kl_k3": k3 / tokens,
            "mean_ratio": total / n,
            "max_ratio": largest,
            "self_certainty": certainty / tokens,
        }
