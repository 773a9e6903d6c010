"""Answers verified per second, by the pool of processes and by math-verify alone; and whether they agree.

Each problem is answered by its own worked solution, and as often by one with another number in the box. The shipped
word problems are short; `--file` takes longer ones, such as those of MATH-500. The wall clock tells the rate on a
quiet machine. The processor time of all processes of the pool tells it on a busy one: what two whole cores would do.
"""

import logging
import random
import time
from fractions import Fraction

import psutil
from clock import finish, interleave, options, show, spread, start

from psn_tutorial.tasks.math import Math, load_problems
from psn_tutorial.tasks.verifier import Verifier

POOL, ALONE = "the pool", "math-verify in this process"
CORES = "the pool, if it had two cores for itself"


def answers(problems: list, group: int) -> tuple[list[str], list[str]]:
    """``group`` responses to each problem, one in two wrong; and the reference answers."""
    responses, golds = [], []
    for problem in problems:
        right = Math().demonstration(problem, random.Random(0)).text
        for n in range(group):
            number = Fraction(n, 7) + 1000
            responses.append(right if n % 2 == 0 else f"{right} No, it is \\boxed{{{number}}}.")
            golds.append(problem.answer)
    return responses, golds


def processor_seconds(pool: Verifier) -> float:
    """Used so far by this process and those of the pool."""
    roots = [psutil.Process(worker.process.pid) for worker in pool._idle.queue if worker]
    processes = [process for root in roots for process in (root, *root.children())]
    return time.process_time() + sum(sum(process.cpu_times()[:2]) for process in processes)


def main(words: list[str] | None = None) -> list[dict]:
    parser = options(__doc__, rounds=5)
    parser.add_argument("--prompts", type=int, default=240, help="problems (%(default)s)")
    parser.add_argument("--group", type=int, default=2, help="answers to each (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes of the pool (%(default)s)")
    parser.add_argument("--file", help="problems with solutions, a line of JSON each; none: the shipped ones")
    args = parser.parse_args(words)
    start(args)
    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    responses, golds = answers(load_problems("word_problems", path=args.file)[: args.prompts], args.group)
    pool, verdicts, used = Verifier(args.workers), {}, []
    pool.verify_many(responses[:50], golds[:50])  # all processes have started

    def pooled() -> None:
        before = processor_seconds(pool)
        verdicts[POOL] = [verdict.correct for verdict in pool.verify_many(responses, golds)]
        used.append((processor_seconds(pool) - before) / 2)

    def alone() -> None:
        verdicts[ALONE] = [
            verify(parse(f"\\boxed{{{gold}}}"), parse(response))
            for response, gold in zip(responses, golds, strict=True)
        ]

    seconds = interleave({POOL: pooled, ALONE: alone}, args)
    pool.close()
    logging.disable(logging.NOTSET)
    result = show(f"{len(responses)} answers, {args.workers} processes", seconds, [(ALONE, POOL, "")])
    differ = sum(a is not b for a, b in zip(verdicts[POOL], verdicts[ALONE], strict=True))
    times = seconds | {CORES: used[args.warmup : args.warmup + len(seconds[POOL])]}
    rates = {name: spread([len(responses) / s for s in values]) for name, values in times.items()}
    for name, rate in rates.items():
        goal = "" if name == ALONE else "   goal >= 300"
        print(f"  answers per second, {name}: {rate['median']:.0f} ({rate['min']:.0f} - {rate['max']:.0f}){goal}")
    print(f"  {sum(verdicts[POOL])} right; {differ} verdicts differ")
    results = [
        {
            **result,
            "answers": len(responses),
            "per_second": rates,
            "right": sum(verdicts[POOL]),
            "verdicts_that_differ": differ,
        }
    ]
    finish(args, results)
    return results


if __name__ == "__main__":
    main()
