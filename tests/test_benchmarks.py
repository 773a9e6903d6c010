"""The benchmarks run, and measure what they say. No times are asserted here."""

import importlib
import json
import os
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from psn_tutorial.models.bases import base_folder
from tests.models.smollm2 import FILE
from tests.models.smollm2 import FOLDER as FOLDER_OF_MODELS

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
TINY = ["--prompts", "2", "--group", "4", "--rounds", "2", "--warmup", "0"]


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))


def load(name):
    return importlib.import_module(name)


def test_every_script_is_tested_here():
    assert {path.stem for path in FOLDER.glob("*.py")} == {
        "carriers",
        "clock",
        "draws",
        "floor",
        "integration",
        "memory",
        "noise",
        "qlora",
        "real",
        "sampling",
        "scheduler",
        "step",
        "verifier",
    }


@pytest.mark.parametrize(
    ("name", "words", "count"),
    [
        ("floor", [], 1),
        ("sampling", [], 1),
        ("step", ["--no-trl"], 2),
        ("draws", ["--draws", "1", "2", "8", "--targets", "mlp", "head"], 8),
        ("noise", [], 1),
        ("scheduler", [], 2),
    ],
)
def test_a_benchmark_prints_and_records_its_ratios(name, words, count, tmp_path, capsys):
    out = tmp_path / "new" / "record.json"
    results = load(name).main([*TINY, *words, "--out", str(out)])
    printed = capsys.readouterr().out
    record = json.loads(out.read_text())
    assert record["results"] == results and len(results) == count
    assert record["settings"]["rounds"] == 2 and record["provenance"]["versions"]["torch"] == torch.__version__
    for result in results:
        assert result["title"] in printed
        for times in result["seconds"].values():
            assert 0 < times["min"] <= times["median"] <= times["max"]
        for ratio in result["ratios"]:
            above, below = (result["seconds"][ratio[side]] for side in ("above", "below"))
            assert above["min"] / below["max"] <= ratio["median"] <= above["max"] / below["min"]
            assert f"{ratio['above']} / {ratio['below']}" in printed


def test_a_qlora_step_is_told_by_part_with_its_budget(tmp_path, capsys):
    pytest.importorskip("bitsandbytes"), pytest.importorskip("peft")
    script = load("qlora")
    (result,) = script.main([*TINY, "--models", "tiny", "--new", "8", "--out", str(tmp_path / "record.json")])
    printed = capsys.readouterr().out
    assert json.loads((tmp_path / "record.json").read_text())["results"] == [result]
    for label in (script.PLAIN, script.NOISY):
        made = result[label]
        assert made["tokens_per_second"] > 0 and sum(made["parts"].values()) <= result["seconds"][label]["max"]
        assert f"  {label}: sample " in printed and made["parts"]["update"] > 0.1 * made["parts"]["sample"]
    assert (result["peak"] is None) == (not torch.cuda.is_available()) and result["budget"] > 0.75 * 2**30


def test_the_verifiers_answers_are_counted_and_compared(tmp_path, capsys):
    out = tmp_path / "record.json"
    (result,) = load("verifier").main([*TINY, "--workers", "1", "--out", str(out)])
    assert json.loads(out.read_text())["results"] == [result]
    assert result["answers"] == 8 and result["right"] == 4 and result["verdicts_that_differ"] == 0
    assert all(0 < rate["min"] <= rate["median"] <= rate["max"] for rate in result["per_second"].values())
    assert "4 right; 0 verdicts differ" in capsys.readouterr().out


def test_a_step_beside_trl(tmp_path):
    pytest.importorskip("trl")
    results = load("step").main([*TINY, "--out", str(tmp_path / "record.json")])
    for result in results:
        assert all(times["min"] > 0 for times in result["seconds"].values()) and len(result["seconds"]) == 4
        tokens = [rollouts["tokens"] for rollouts in result["rollouts"].values()]
        assert len(tokens) == 3 and all(0 < n <= 8 * 18 for n in tokens)


def test_the_noise_inside_trl_beside_trl_and_our_own_loop(tmp_path):
    pytest.importorskip("trl")
    script, out = load("integration"), tmp_path / "record.json"
    results = script.main([*TINY, "--base", str(base_folder("sums")), "--new", "6", "--out", str(out)])
    assert json.loads(out.read_text())["results"] == results and len(results) == 2
    inside, noisy = ([name.format(n) for n in (1, 4)] for name in (script.INSIDE, script.NOISY))
    for result in results:
        assert set(result["seconds"]) == {script.THEIRS, *inside, script.OURS, *noisy}
        assert all(times["min"] > 0 for times in result["seconds"].values())
        assert [(r["above"], r["below"]) for r in result["ratios"]] == [
            *((name, script.THEIRS) for name in inside),
            (script.THEIRS, script.OURS),
            *zip(inside, noisy, strict=True),
        ]
    assert "138,560 of 138,560 weights" in results[0]["title"] and "77,824 of 536,320 weights" in results[1]["title"]
    (alone,) = script.main([*TINY, "--base", "no-such-file", "--draws", "1", "--only", "tiny"])
    assert alone["title"] == results[0]["title"] and len(alone["seconds"]) == 4


def test_a_trainer_in_a_thread_takes_one_step_at_a_time_and_tells_its_errors():
    pytest.importorskip("trl")
    step, floor = load("step"), load("floor")
    args = Namespace(warmup=0, rounds=5)
    shared = floor.Countdown(floor.Sizes(2, 4))
    with step.trl_steps(shared, shared.task, args) as stepped:
        for count in (1, 2):
            stepped.step()
            assert stepped.trainer.state.global_step == count
        stepped.trainer.model.forward = None
        with pytest.raises(TypeError):
            stepped.step()
    assert not stepped.thread.is_alive() and stepped.trainer.state.global_step == 2


@pytest.mark.skipif(not FILE.is_file(), reason="SmolLM2 is not here: python -m tests.models.smollm2")
def test_a_pretrained_model_beside_generate(tmp_path, monkeypatch):
    monkeypatch.setenv("PSN_TUTORIAL_CACHE", str(FOLDER_OF_MODELS))
    words = [*TINY, "--base", str(FILE), "--new", "4", "--longest", "12", "--mean", "3", "--step-new", "3", "--no-trl"]
    words += ["--encoder", "bag-of-words"]
    full, ending, step = results = load("real").main([*words, "--out", str(tmp_path / "record.json")])
    assert json.loads((tmp_path / "record.json").read_text())["results"] == results
    script = load("real")
    for name in (script.OURS, script.GENERATE):
        assert full[f"tokens, {name}"] == 8 * 4
        assert 8 < ending[f"tokens, {name}"] < 8 * 8
    assert set(step["seconds"]) == {script.STEP, script.NOISY, script.REALTIME, script.FLOOR}


def test_the_carriers_of_a_4_bit_model(tmp_path):
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("peft")
    sizes = ["--hidden", "64", "--layers", "2", "--ff", "128", "--vocabulary", "100", "--new", "6", "--kl-draws", "3"]
    (result,) = load("carriers").main([*TINY, *sizes, "--out", str(tmp_path / "record.json")])
    assert json.loads((tmp_path / "record.json").read_text())["results"] == [result]
    assert [(r["above"], r["goal"]) for r in result["ratios"]] == [
        ("lowrank, 1 draws", "<= 1.05"),
        ("lowrank, 4 draws", ""),
        ("dense, 1 draws", ""),
        ("dense, 4 draws", ""),
        ("lowrank, relative, 1 draws", "<= 1.05"),
    ]
    weights, factors = 2 * 3 * 64 * 128, 2 * 3 * 16 * (64 + 128)  # gate, up and down of two layers; bfloat16
    for draws in (1, 4):
        assert result["carriers"][f"dense, {draws} draws"]["bytes"] == 2 * draws * weights
        assert result["carriers"][f"lowrank, {draws} draws"]["bytes"] == 4 * draws * factors
    assert result["carriers"]["lowrank, relative, 1 draws"]["bytes"] == 4 * factors
    for carrier in ("dense", "lowrank"):
        kl = result["carriers"][f"{carrier}, KL"]
        assert 0 < kl["value"] < 0.01 and kl["low"] < kl["value"] < kl["high"]


def test_rounds_are_interleaved_and_the_warm_up_is_not_counted():
    clock, calls = load("clock"), []
    programs = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = clock.interleave(programs, Namespace(clock="wall", warmup=2, rounds=3))
    assert "".join(calls) == "ab" * 5
    assert [len(values) for values in seconds.values()] == [3, 3]


def test_a_run_that_is_stopped_keeps_its_whole_rounds(capsys):
    clock, calls = load("clock"), []

    def stopped_at(count):
        def program():
            calls.append(1)
            if len(calls) == count:
                raise KeyboardInterrupt

        return {"a": program, "b": program}

    seconds = clock.interleave(stopped_at(8), Namespace(clock="wall", warmup=1, rounds=9))
    assert [len(values) for values in seconds.values()] == [2, 2] and "2 of 9 rounds" in capsys.readouterr().out
    calls.clear()
    with pytest.raises(KeyboardInterrupt):  # nothing was measured
        clock.interleave(stopped_at(4), Namespace(clock="wall", warmup=2, rounds=9))


def test_a_ratio_is_the_median_of_the_rounds():
    seconds = {"a": [1.0, 9.0, 8.0], "b": [1.0, 3.0, 4.0]}
    assert load("clock").ratio(seconds, "a", "b") == {"median": 2.0, "min": 1.0, "max": 3.0}


def test_default_malloc_starts_anew_without_the_settings(monkeypatch):
    clock, started = load("clock"), []
    monkeypatch.setattr(os, "execve", lambda program, words, environment: started.append((words, environment)))
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")
    monkeypatch.setenv("HOME", "here")
    arguments = clock.options("x").parse_args(["--malloc", "default"])
    clock.start(arguments)
    words, environment = started[0]
    assert words == [sys.executable, *sys.argv]
    assert environment["HOME"] == "here" and not any(name.startswith("MALLOC_") for name in environment)
    assert arguments.malloc == "default"


def flops(program):
    with FlopCounterMode(display=False) as counter:
        program()
    return counter.get_total_flops()


def test_the_floor_has_exactly_the_products_of_the_model():
    floor = load("floor")
    sizes = floor.Sizes(prompts=2, group=3, new=5)
    shared = floor.Countdown(sizes)
    model, floor = shared.model, floor.Floor(shared.model, sizes)
    model.set_attn_implementation("eager")  # plain products, which the counter knows
    tokens = torch.randint(3, 100, (sizes.rows, sizes.new))
    rows = torch.arange(sizes.prompts).repeat_interleave(sizes.group)

    @torch.no_grad()
    def sampling():
        out = model(shared.prompts.ids, use_cache=True, logits_to_keep=1)
        cache = out.past_key_values
        cache.batch_repeat_interleave(sizes.group)
        for t in range(sizes.new - 1):
            model(tokens[:, t : t + 1], past_key_values=cache, use_cache=True)

    def update():
        ids = torch.cat([shared.prompts.ids[rows], tokens[:, :-1]], 1)
        model(ids, logits_to_keep=sizes.new).logits.logsumexp(-1).sum().backward()

    assert flops(floor.sampling) == flops(sampling) > 0
    assert flops(floor.update) == flops(update) > 0
    model.requires_grad_(False)
    embeddings = model.get_input_embeddings()
    embeddings.register_forward_hook(lambda module, inputs, out: out.detach().requires_grad_())
    assert flops(lambda: floor.update(frozen=True)) == flops(update)


def test_every_group_learns_from_the_contrasted_reward():
    floor, step = load("floor"), load("step")
    task = floor.Countdown(floor.Sizes(2)).task
    contrasted = step.Contrasted(task)
    assert contrasted.words == task.words
    problem = task.generate(0, 1)[0]
    answers = [f"{n} + {n} = {2 * n}" for n in range(100)]
    verdicts = [contrasted.verify(answer, problem).correct for answer in answers]
    assert verdicts == [contrasted.verify(answer, problem).correct for answer in answers]
    assert 30 < sum(verdicts) < 70


def test_memory_of_a_step_and_its_table(monkeypatch, capsys):
    memory = load("memory")
    assert memory.peak_memory() > 50 * memory.MEGABYTE
    memory.main(["--point", "2", "3", "1000"])
    point = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert point["before"] > 50 * memory.MEGABYTE and point["step"] >= 0

    def pretend(flag, prompts, new, micro_batch):
        return {"step": prompts * 16 * (8 + new) * memory.MEGABYTE}

    monkeypatch.setattr(memory, "in_a_new_process", pretend)
    results = memory.main(["--prompts", "1", "2", "--new", "18", "44"])
    assert [point["megabytes"] for point in results[0]["points"]] == [16 * 26, 32 * 26]
    assert [point["tokens"] for point in results[1]["points"]] == [16 * 26, 16 * 52]
    assert "x 2.00 tokens, x 2.00 memory" in capsys.readouterr().out


def test_a_failed_point_says_why(monkeypatch):
    with pytest.raises(SystemExit, match=r"--point 1 1 0 failed:(.|\n)*micro_batch"):
        load("memory").in_a_new_process("--point", 1, 1, 0)
