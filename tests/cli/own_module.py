"""A module as a user would write it: a task, a scheduler, a noise target and a carrier, which is the one that the
docstring of carriers shows; and a small run of it."""

import textwrap

from psn_tutorial import carriers

CARRIER = textwrap.dedent(carriers.__doc__[carriers.__doc__.index("    @contextmanager") :])

MODULE = '''
from contextlib import contextmanager
from psn_tutorial.noise import Tally, gaussian
from psn_tutorial.schedulers import Scheduler
from psn_tutorial.tasks import Demonstration, Task, Verdict

class Parity(Task):
    """Say whether a number is odd or even."""
    name = "own_parity"
    words = [*map(str, range(10)), "odd", "even"]
    splits = {"eval": {"seed": 0, "count": 3}, "train": {"seed": 1, "count": 4}}
    def generate(self, seed, count, exclude=()):
        left = [number for number in range(10) if number not in set(exclude)]
        return [left[(seed + i) % len(left)] for i in range(count)]
    def prompt(self, problem):
        return str(problem)
    def max_tokens(self, problem):
        return 2
    def verify(self, response, problem):
        right = response.split()[:1] == [("even", "odd")[problem % 2]]
        return Verdict(right, "" if right else "the other one")
    def to_json(self, problem):
        return {"number": problem}
    def from_json(self, fields, where):
        return int(fields["number"])
    def demonstration(self, problem, rng):
        return Demonstration(rng.choice(("odd", "even")), (True,))

def second_matrices(name):
    return name.endswith("down_proj.weight")


CARRIER
class Halving(Scheduler):
    state = ("sigma",)
    def __init__(self, sigma):
        self.sigma = sigma
    def update(self, signals):
        self.sigma /= 2
        return self.sigma
'''.replace("CARRIER\n", CARRIER)
SMALL = "--prompts 2 --group 4 --samples 4 --steps 4 --entropy-coef 0.01 --save-every 1".split()
NOISY = ["--sigma", 0.5, "--relative", "--draws", 2]
