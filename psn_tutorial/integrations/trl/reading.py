"""What a policy says of completions it is shown, where TRL's loss does not read it anyway. All without gradient."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from trl.trainer.utils import pad

from psn_tutorial.importance import mixture_logps
from psn_tutorial.rollout import token_logps
from psn_tutorial.signals import token_certainty


class Sequences(NamedTuple):
    """Prompts with their completions: ids and attention mask, both [B, Tp + T], and the mask [B, T] of the latter."""

    ids: Tensor
    attention: Tensor
    mask: Tensor

    @classmethod
    def of(cls, inputs: dict[str, Any]) -> "Sequences":
        """Those of a micro-batch, as TRL's loss is given it."""
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        return cls(ids, attention, inputs["completion_mask"].bool())

    @classmethod
    def padded(cls, prompts: Sequence[list[int]], completions: Sequence[list[int]], device: torch.device):
        """Those of B lists of ids."""
        sides = []
        for rows, side in ((prompts, "left"), (completions, "right")):
            tensors = [torch.tensor(row) for row in rows]
            sides.append(pad(tensors, padding_value=0, padding_side=side))
            sides.append(pad([torch.ones_like(row) for row in tensors], padding_value=0, padding_side=side))
        names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
        return cls.of({name: side.to(device) for name, side in zip(names, sides, strict=True)})


class Reader:
    """Reads sequences with a model: its temperature, and the precision that the trainer computes in."""

    def __init__(self, temperature: float, autocast: Callable[[], AbstractContextManager]) -> None:
        self.temperature, self.autocast = temperature, autocast

    def logits(self, model: nn.Module, shown: Sequences, rows: int, draws: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Pieces of ``rows`` rows [n] and the logits / temperature [draws * n, T, V] that their completions come from.

        In pieces, because the logits of a large vocabulary are larger than all else; draws: inside a carrier of noise
        the number N of its draws, under each of which all rows are read.
        """
        length = shown.mask.shape[1]
        for part in torch.arange(len(shown.ids), device=shown.ids.device).split(rows):
            ids, attention = (x[part].repeat(draws, 1) for x in (shown.ids, shown.attention))
            with torch.no_grad(), self.autocast():
                found = model(input_ids=ids, attention_mask=attention, logits_to_keep=length + 1)
            yield part, found.logits[:, :-1].float() / self.temperature

    def log_probs(self, model: nn.Module, shown: Sequences) -> Tensor:
        """Log-probs [B, T] of the completions, as TRL's loss finds them: all rows at once like there, because batches
        of another size round differently."""
        labels = shown.ids.masked_fill(shown.attention == 0, -100)
        labels[:, : -shown.mask.shape[1]] = -100
        with torch.no_grad(), self.autocast():
            found = model(input_ids=shown.ids, attention_mask=shown.attention, labels=labels, fused_lm_head=True)
        return found.log_probs[:, -shown.mask.shape[1] :]

    def mixture(self, model: nn.Module, shown: Sequences, rows: int, draws: int) -> Tensor:
        """Log-probs [B, T] of the completions under the mixture of the draws that ``model`` carries."""
        under_each = []
        for part, logits in self.logits(model, shown, max(1, rows // draws), draws):
            tokens = shown.ids[part, -shown.mask.shape[1] :].repeat(draws, 1)
            under_each.append(token_logps(logits, tokens)[0].view(draws, len(part), -1))
        return mixture_logps(torch.cat(under_each, 1), shown.mask)

    def certainty(self, model: nn.Module, shown: Sequences, direction: str) -> Tensor:
        """The certainty [B, T] of each next-token distribution, 0 outside the mask."""
        found = [token_certainty(logits, direction)[0] for _, logits in self.logits(model, shown, rows=1)]
        return torch.stack(found).masked_fill(~shown.mask, 0.0)
