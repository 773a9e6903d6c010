"""Worded sums: problems of one or two steps of + and -, made from a seed, for the small language model made here.

    "Anna has 12 apples. She buys 7 more and gives 5 away. How many apples has Anna now?"    answer 14

They ask what GSM8K asks (read, calculate, answer in words) of a model that knows nothing else.
"""

import random
from collections.abc import Iterable

from psn_tutorial.errors import check_integer, check_seed
from psn_tutorial.tasks.questions import Problem

LOWEST, HIGHEST = 2, 20  # of the numbers in a question; what is worked out from them is in 0..60
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
QUESTIONS = ("How many {things} has {name} now?", "How many {things} are there in the end?")


def generate(seed: int, count: int, exclude: Iterable[Problem] = ()) -> list[Problem]:
    """``count`` problems with different questions, none of them asked in ``exclude``; about half have two steps.

    ``level`` is the number of steps. The same arguments give the same problems.
    Raises UserError for a seed below 0, or a count outside 0..1,000,000.
    """
    check_seed(seed)
    rng = random.Random(seed)
    check_integer("count", count, 0, 10**6)
    taken, problems = {problem.question for problem in exclude}, []
    while len(problems) < count:
        problem = _problem(rng)
        if problem.question not in taken:
            taken.add(problem.question)
            problems.append(problem)
    return problems


def _problem(rng: random.Random) -> Problem:
    name, things, steps = rng.choice(list(PEOPLE)), rng.choice(THINGS), rng.choice((1, 2))
    ways = {"+": rng.sample(GAINS, steps), "-": rng.sample(LOSSES, steps)}
    total = start = rng.randint(LOWEST, HIGHEST)
    deeds, worked = [], []
    for _ in range(steps):
        sign = "+" if total < LOWEST or rng.random() < 0.5 else "-"  # nobody gives what she has not got
        number = rng.randint(LOWEST, HIGHEST if sign == "+" else min(HIGHEST, total))
        before, total = total, total + number if sign == "+" else total - number
        deeds.append(ways[sign].pop().format(number))
        worked.append(f"{before} {sign} {number} = {total}.")
    asked = rng.choice(QUESTIONS).format(things=things, name=name)
    question = f"{name} has {start} {things}. {PEOPLE[name]} {' and '.join(deeds)}. {asked}"
    return Problem(question, str(total), " ".join(worked), topic="sums", level=steps)
