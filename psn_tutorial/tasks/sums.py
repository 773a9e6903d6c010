"""Worded sums: problems of a few steps of + and -, made from a seed, as hard as a language model needs them.

    "Anna has 12 apples. She buys 7 more and gives 5 away. How many apples has Anna now?"    answer 14

They ask what GSM8K asks: read, calculate, answer in words. The shipped language model, which knows nothing else, was
taught those of one or two steps; more steps, larger numbers and numbers that do not matter are for pretrained ones.
"""

import random
from collections.abc import Iterable

from psn_tutorial.errors import UserError, check_integer, check_range, check_seed
from psn_tutorial.tasks.questions import Problem

LOWEST, HIGHEST = 2, 20  # of the numbers in a question, unless told otherwise
MOST_STEPS, MOST_TRIES = 6, 1000  # tries for one problem that is new
PEOPLE = {
    "Anna": "She",
    "Ben": "He",
    "Carla": "She",
    "David": "He",
    "Emma": "She",
    "Felix": "He",
    "Grace": "She",
    "Hugo": "He",
    "Ida": "She",
    "Jonas": "He",
    "Karin": "She",
    "Leo": "He",
}
THINGS = (
    "apples",
    "books",
    "cards",
    "coins",
    "eggs",
    "flowers",
    "marbles",
    "nuts",
    "pencils",
    "shells",
    "stamps",
    "stones",
)
GAINS = ("buys {} more", "finds {} more", "gets {} from a friend", "wins {} in a game")
LOSSES = ("gives {} away", "loses {}", "sells {}", "leaves {} at school")
# for more than two steps
MORE_GAINS = (*GAINS, "picks up {} more", "is given {} more")
MORE_LOSSES = (*LOSSES, "throws {} away", "lends {} to a friend")
RELATIVES = ("brother", "sister", "cousin", "neighbour")
QUESTIONS = ("How many {things} has {name} now?", "How many {things} are there in the end?")


def generate(
    seed: int,
    count: int,
    exclude: Iterable[Problem] = (),
    steps: int = 0,
    largest: int = HIGHEST,
    distractors: float = 0.0,
) -> list[Problem]:
    """``count`` problems with different questions, none of them asked in ``exclude``; the same arguments give the same.

    steps: of each problem, which is its ``level``; 0: one or two, about half each.
    largest: of the numbers in a question; the answer may be larger.
    distractors: share of the problems that tell a number which does not matter.

    Raises UserError for a seed below 0, a count outside 0..1,000,000, a knob outside its range, or more problems than
    there are.
    """
    check_seed(seed)
    check_integer("steps", steps, 0, MOST_STEPS)
    check_integer("largest", largest, LOWEST, 10**6)
    check_range("distractors", distractors, low=0, high=1)
    rng = random.Random(seed)
    check_integer("count", count, 0, 10**6)
    taken, problems, tries = {problem.question for problem in exclude}, [], 0
    while len(problems) < count:
        problem = _problem(rng, steps, largest, distractors)
        tries += 1
        if problem.question not in taken:
            taken.add(problem.question)
            problems.append(problem)
            tries = 0
        elif tries == MOST_TRIES:
            raise UserError(f"count must be <= {len(problems)}: there are hardly more different sums, got {count}")
    return problems


def _problem(rng: random.Random, steps: int, largest: int, distractors: float) -> Problem:
    name, things, steps = rng.choice(list(PEOPLE)), rng.choice(THINGS), steps or rng.choice((1, 2))
    gains, losses = (GAINS, LOSSES) if steps <= 2 else (MORE_GAINS, MORE_LOSSES)
    ways = {"+": rng.sample(gains, steps), "-": rng.sample(losses, steps)}
    total = start = rng.randint(LOWEST, largest)
    deeds, worked = [], []
    for _ in range(steps):
        sign = "+" if total < LOWEST or rng.random() < 0.5 else "-"  # nobody gives what she has not got
        number = rng.randint(LOWEST, largest if sign == "+" else min(largest, total))
        before, total = total, total + number if sign == "+" else total - number
        deeds.append(ways[sign].pop().format(number))
        worked.append(f"{before} {sign} {number} = {total}.")
    aside = ""
    if distractors and rng.random() < distractors:
        owner = "Her" if PEOPLE[name] == "She" else "His"
        aside = f"{owner} {rng.choice(RELATIVES)} has {rng.randint(LOWEST, largest)} {things}. "
    # With a number of somebody else's, only a question that names the person is clear.
    asked = (QUESTIONS[0] if aside else rng.choice(QUESTIONS)).format(things=things, name=name)
    told = " and ".join([", ".join(deeds[:-1]), deeds[-1]] if steps > 1 else deeds)
    question = f"{name} has {start} {things}. {aside}{PEOPLE[name]} {told}. {asked}"
    return Problem(question, str(total), " ".join(worked), topic="sums", level=steps)
