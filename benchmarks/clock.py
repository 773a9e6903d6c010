"""Interleaved timing: what every benchmark here measures with. Run alone, it says what machine this is.

Two programs are compared in ONE run, A B A B ..., because a machine's speed drifts; the ratio of each round is taken
before its median. Times are wall times of the whole call, both programs with the same threads and the same malloc.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from psn_tutorial.jobs.malloc import keep_freed_memory
from psn_tutorial.runs.provenance import provenance

MALLOC = {"MALLOC_MMAP_THRESHOLD_": 1 << 30, "MALLOC_TRIM_THRESHOLD_": 1 << 30, "MALLOC_TOP_PAD_": 64 << 20}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
Seconds = dict[str, list[float]]


def options(description: str, rounds: int = 9) -> argparse.ArgumentParser:
    """The flags that every benchmark has."""
    parser = argparse.ArgumentParser(description=description.strip().splitlines()[0])
    parser.add_argument("--rounds", type=int, default=rounds, help="times that each program runs (%(default)s)")
    parser.add_argument("--warmup", type=int, default=2, help="rounds before the clock starts (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="(%(default)s)")
    parser.add_argument(
        "--malloc",
        choices=("kept", "default"),
        default="kept",
        help="kept: glibc keeps freed memory (jobs/malloc.py); default: as it comes",
    )
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="cpu: this process's processor time, for one thread on a busy machine",
    )
    parser.add_argument("--out", type=Path, help="also write the record to this JSON file")
    return parser


def start(args: argparse.Namespace) -> None:
    """Set threads and malloc, and say where this runs. Call it before anything is computed."""
    if args.malloc == "default" and MALLOC.keys() & os.environ.keys():
        # glibc reads these when a process starts, so it must start anew without them
        environment = {name: value for name, value in os.environ.items() if name not in MALLOC}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    if args.malloc == "kept" and not keep_freed_memory():
        args.malloc = "no glibc here"
    torch.set_num_threads(args.threads)
    machine = provenance()
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    load = f"; load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{machine['cpu']}, {machine['cpu_count']} cores{load}")
    print(f"{args.threads} threads, {args.clock} time, malloc {args.malloc}")
    print(versions, flush=True)


def interleave(programs: dict[str, Callable[[], Any]], args: argparse.Namespace) -> Seconds:
    """Seconds of each call of each program; round r of one stands beside round r of the others. Ctrl-C ends it early:
    the rounds that are whole count."""
    now, rounds = CLOCKS[args.clock], []
    try:
        for _ in range(args.warmup + args.rounds):
            taken = []
            for program in programs.values():
                begin = now()
                program()
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                taken.append(now() - begin)
            rounds.append(taken)
    except KeyboardInterrupt:
        if len(rounds) <= args.warmup:
            raise
        print(f"stopped: {len(rounds) - args.warmup} of {args.rounds} rounds", flush=True)
    return {name: list(values) for name, values in zip(programs, zip(*rounds[args.warmup :], strict=True), strict=True)}


def ratio(seconds: Seconds, above: str, below: str) -> dict[str, float]:
    """Median, least and largest of the rounds' ratios."""
    return spread([a / b for a, b in zip(seconds[above], seconds[below], strict=True)])


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def show(title: str, seconds: Seconds, ratios: Sequence[tuple[str, str, str]] = ()) -> dict[str, Any]:
    """Print the times and the (above, below, goal) ratios of one comparison; returns what was printed."""
    print(f"\n{title}")
    result: dict[str, Any] = {"title": title, "seconds": {}, "ratios": []}
    for name, values in seconds.items():
        result["seconds"][name] = spread(values)
        line("  " + name, result["seconds"][name], 1e3, "ms")
    for above, below, goal in ratios:
        value = ratio(seconds, above, below)
        result["ratios"].append({"above": above, "below": below, "goal": goal, **value})
        line(f"  {above} / {below}", value, 1, f"   goal {goal}" if goal else "")
    return result


def line(name: str, value: dict[str, float], scale: float, after: str) -> None:
    """Print one median with its range."""
    middle, low, high = (scale * value[key] for key in ("median", "min", "max"))
    digits = 1 if scale > 1 else 3
    print(f"{name:<58}{middle:9.{digits}f}   ({low:.{digits}f} - {high:.{digits}f}) {after}".rstrip(), flush=True)


def finish(args: argparse.Namespace, results: Sequence[dict[str, Any]]) -> None:
    """Write the record, if asked for one."""
    if args.out:
        settings = {name: value for name, value in vars(args).items() if name != "out"}
        record = {"provenance": provenance(sys.argv), "settings": settings, "results": list(results)}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    start(options(__doc__).parse_args())
