"""The batch that all benchmarks share, and the arithmetic floor: what its matrix products alone cost.

The products have the sizes and the order of a naive rollout and update, on random numbers: linear layers, attention
products, head, log-softmax. No norms, no rotary embedding, no residuals, no choosing, no cache, no autograd.
"""

import argparse
from dataclasses import dataclass

import torch
from clock import finish, interleave, options, show, start
from torch import Tensor, nn

from psn_tutorial.models.bases import base_folder
from psn_tutorial.models.policy import encode
from psn_tutorial.models.tiny import load
from psn_tutorial.tasks import get_task, load_split


@dataclass(frozen=True)
class Sizes:
    """One batch: ``prompts`` prompts of ``prompt`` tokens, ``group`` completions each of ``new`` tokens."""

    prompts: int = 32
    group: int = 16
    prompt: int = 8
    new: int = 18

    @property
    def rows(self) -> int:
        return self.prompts * self.group

    def __str__(self) -> str:
        return f"{self.rows} rollouts ({self.prompts} x {self.group}) of {self.prompt} + {self.new} tokens"


class Countdown:
    """The shipped policy of Countdown (139k parameters), its problems and the prompts of one batch."""

    def __init__(self, sizes: Sizes):
        self.sizes, self.task = sizes, get_task("countdown")
        self.policy = load(base_folder("countdown"))
        self.model, self.tokenizer = self.policy
        self.problems = load_split("countdown", "train")
        self.texts = [self.task.prompt(problem) for problem in self.problems]
        self.prompts = encode(self.tokenizer, self.texts[: sizes.prompts])
        assert self.prompts.ids.shape == (sizes.prompts, sizes.prompt) and self.prompts.mask.all()


def batch_options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The flags of the batch."""
    parser.add_argument("--prompts", type=int, default=Sizes.prompts, help="prompts of a batch (%(default)s)")
    parser.add_argument("--group", type=int, default=Sizes.group, help="rollouts per prompt (%(default)s)")
    return parser


class Floor:
    """The products of one model on one batch."""

    def __init__(self, model: nn.Module, sizes: Sizes):
        config = model.config
        self.sizes, self.layers = sizes, config.num_hidden_layers
        self.heads, self.head_dim = config.num_attention_heads, config.head_dim
        layer = model.model.layers[0]
        self.weights = [m.weight.detach().clone() for m in layer.modules() if isinstance(m, nn.Linear)]
        self.head = model.lm_head.weight.detach().clone()
        tokens = sizes.rows * (sizes.prompt + sizes.new)
        self.inputs = {width: torch.randn(tokens, width) for width in {w.shape[1] for w in self.weights}}

    @torch.no_grad()
    def sampling(self) -> None:
        """Read every prompt once, then one token of every rollout at a time."""
        s = self.sizes
        self.read(s.prompts, s.prompt, s.prompt)
        self.choose(s.prompts)
        for t in range(1, s.new):
            self.read(s.rows, 1, s.prompt + t)
            self.choose(s.rows)

    def read(self, rows: int, new: int, keys: int) -> None:
        """The products of all layers for ``new`` tokens in each row, which see ``keys`` tokens."""
        query, memory = self.heads_of(rows, new), self.heads_of(rows, keys)
        for _ in range(self.layers):
            for weight in self.weights:
                self.inputs[weight.shape[1]][: rows * new] @ weight.T
            (query @ memory.mT) @ memory

    def choose(self, rows: int) -> None:
        (self.inputs[self.head.shape[1]][:rows] @ self.head.T).log_softmax(-1)

    def heads_of(self, rows: int, tokens: int) -> Tensor:
        width = self.heads * self.head_dim
        return self.inputs[width][: rows * tokens].view(-1, tokens, self.head_dim)[: rows * self.heads]

    @torch.no_grad()
    def update(self, rows: int | None = None, frozen: bool = False) -> None:
        """Forward and backward products over ``rows`` rollouts with their prompts: three per linear layer, two where
        its weight is ``frozen``."""
        s, multiply = self.sizes, self.two if frozen else self.three
        rows, length = s.rows if rows is None else rows, s.prompt + s.new - 1
        x = self.heads_of(rows, length)
        for _ in range(self.layers):
            for weight in self.weights:
                multiply(weight, rows * length)
            scores = x @ x.mT
            scores @ x  # and backward: the gradients of scores, values, queries and keys
            x @ x.mT, scores.mT @ x, scores @ x, scores.mT @ x
        logps = multiply(self.head, rows * s.new).log_softmax(-1)
        logps.exp()  # the gradient of the log-softmax needs the probabilities

    def two(self, weight: Tensor, rows: int) -> Tensor:
        """y = x W^T, and backward dx = dy W."""
        y = self.inputs[weight.shape[1]][:rows] @ weight.T
        y @ weight
        return y

    def three(self, weight: Tensor, rows: int) -> Tensor:
        """Also dW = dy^T x."""
        y = self.two(weight, rows)
        y.T @ self.inputs[weight.shape[1]][:rows]
        return y


def main(words: list[str] | None = None) -> list[dict]:
    args = batch_options(options(__doc__)).parse_args(words)
    start(args)
    sizes = Sizes(args.prompts, args.group)
    floor = Floor(Countdown(sizes).model, sizes)
    seconds = interleave({"sampling": floor.sampling, "update": floor.update}, args)
    results = [show(f"Matrix products alone: {sizes}", seconds)]
    finish(args, results)
    return results


if __name__ == "__main__":
    main()
