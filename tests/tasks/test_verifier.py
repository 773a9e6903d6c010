"""The pool of verifier processes: math-verify's own verdicts, and no answer that stops it."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from psn_tutorial.errors import UserError
from psn_tutorial.tasks import Verdict, verifier_worker
from psn_tutorial.tasks.verifier import LONGEST, Verifier, Worker

RIGHT = Verdict(True, "")

# response, gold, math-verify's verdict
KNOWN = [
    (r"The answer is \boxed{18}.", "18", True),
    (r"\boxed{18} no, \boxed{19}", "18", False),
    (r"$\boxed{1}$ or $\boxed{2}$", "2", False),  # both: no guessing
    ("The answer is 18.", "18", True),
    ("She pays $18 for it", "18", True),
    (r"\boxed{10{,}000}", "10000", True),
    (r"\boxed{10,000}", "10000", True),
    (r"\boxed{10000.0}", "10000", True),
    (r"\boxed{\frac{1}{2}}", "0.5", True),
    (r"\boxed{0.5}", r"\frac12", True),
    (r"\boxed{0.333333}", r"\frac{1}{3}", True),
    (r"\boxed{0.33}", r"\frac{1}{3}", False),
    (r"\boxed{50\%}", "50", True),
    (r"\boxed{\sqrt{8}}", r"2\sqrt{2}", True),
    (r"\boxed{(x+1)^2}", "x^2+2x+1", True),
    (r"\boxed{x=5}", "5", True),
    (r"\boxed{\left(3, \frac{\pi}{2}\right)}", r"(3,\pi/2)", True),
    (r"\boxed{(\frac{\pi}{2}, 3)}", r"(3,\pi/2)", False),
    (r"\boxed{\{3, 1, 2\}}", r"\{1,2,3\}", True),
    (r"\boxed{[2, 5)}", "[2,5)", True),
    (r"\boxed{[2, 5]}", "[2,5)", False),
    (r"\boxed{\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", True),
    (r"\boxed{6 - 5i}", "6-5i", True),
    (r"\boxed{\text{Evelyn}}", r"\text{Evelyn}", True),
    (r"\boxed{\text{Ann}}", r"\text{Evelyn}", False),
    (r"\boxed{-7}", "7", False),
    (r"\boxed{2^{10}}", "1024", True),
    (r"\boxed{073}", "73", True),
    ("", "18", False),
    ("I do not know.", "18", False),
]

# None of these equals 18, and each is to end in a verdict.
HOSTILE = {
    "power tower": r"\boxed{9^{9^{9^{9}}}}",
    "power tower without a box": "The answer is 9^9^9^9",
    "tiny number": r"\boxed{10^{-10^{10}}}",
    "factorials": r"\boxed{((((99!)!)!)!)!}",
    "long sum": r"\boxed{\sum_{n=1}^{10^{12}} \frac{1}{n^2+\sin n}}",
    "expansion": r"\boxed{(x+y+z+w)^{500}}",
    "binomial": r"\boxed{\binom{10^9}{5\cdot 10^8}}",
    "open boxes": "\\boxed{" * 20_000,
    "deep fractions": r"\boxed{" + r"\frac{1}{" * 3000 + "2" + "}" * 3000 + "}",
    "deep parentheses": r"\boxed{" + "(" * 3000 + "1" + ")" * 3000 + "}",
    "display openings": r"\[" * 20_000,
    "megabytes of braces": "{" * 3_000_000,
    "a hundred thousand digits": r"\boxed{" + "9" * 100_000 + "}",
    "a long list": r"\boxed{" + "1," * 5000 + "1}",
    "backslashes": "\\" * 100_000,
    "dollars": "$1$ and " * 5000,
    "null bytes": "\0" * 1000 + "\\boxed{1\0 8}",
    "right to left": "\u202e\\boxed{81}\u202c",
    "zero width": "\\boxed{1\u200b8}",
    "lone surrogate": "\\boxed{\ud800}",
    "line ends in it": "\\boxed{1\r\n8}\n[false, 1]\n",
    "unbalanced": r"\boxed{\frac{1}{2",
    "one brace too many": r"\boxed{1}8}",
    "zero division": r"\boxed{\frac{1}{0}}",
    "code": r"\boxed{__import__('os').abort()}",
}


@pytest.fixture(scope="module")
def pool():
    """One process, with little patience."""
    verifier = Verifier(workers=1, deadline=0.3)
    yield verifier
    verifier.close()


@pytest.fixture(scope="module")
def math_verify():
    """math-verify's verdict as it comes: in this process and its main thread, with its own time limits."""
    from math_verify import parse, verify

    return lambda response, gold: verify(parse(f"\\boxed{{{gold}}}"), parse(response))


def processes(verifier):
    """Every process of a pool, and those that they forked."""
    roots = [worker.process.pid for worker in verifier._idle.queue if worker]
    return [p for root in roots for p in (psutil.Process(root), *psutil.Process(root).children(recursive=True))]


def gone(process):
    for _ in range(2000):
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


# Verdicts


@pytest.mark.parametrize(("response", "gold", "verdict"), KNOWN)
def test_a_verdict_is_math_verifys_own(pool, math_verify, response, gold, verdict):
    judged = pool.verify(response, gold)
    assert judged.correct is math_verify(response, gold) is verdict
    assert (judged.reason == "") is verdict


@pytest.mark.parametrize(
    ("response", "gold", "reason"),
    [
        (r"so \boxed{19}", "18", "the answer is 19, not 18"),
        ("", "18", "no answer found"),
        (r"\boxed{1}", "", "the reference answer '' cannot be read"),
        ("1" * (LONGEST + 1), "18", f"response has {LONGEST + 1} characters, more than {LONGEST}"),
        ("18", "1" * (LONGEST + 1), f"gold has {LONGEST + 1} characters, more than {LONGEST}"),
    ],
)
def test_the_reason_says_what_was_read(pool, response, gold, reason):
    assert pool.verify(response, gold) == Verdict(False, reason)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_answer_ends_in_a_verdict(pool, name):
    verdict = pool.verify(HOSTILE[name], "18")
    assert not verdict.correct and 0 < len(verdict.reason) < 200
    assert pool.verify(r"\boxed{18}", "18") == RIGHT


def test_a_hostile_reference_answer_does_no_harm_either(pool):
    assert not pool.verify("18", r"9^{9^{9^{9}}}").correct
    assert pool.verify("18", "18") == RIGHT


PIECES = [
    "\\boxed{",
    "\\frac{",
    "\\sqrt{",
    "}",
    "{",
    "$",
    "$$",
    "\\[",
    "\\]",
    "\\(",
    "^",
    "_",
    "^{",
    "1",
    "9",
    "0",
    ".",
    ",",
    "%",
    "!",
    "=",
    "<",
    "\\le",
    "\\infty",
    "\\pi",
    "x",
    "e^",
    "i",
    "\\sin",
    "\\log_",
    "\\begin{pmatrix}",
    "&",
    "\\\\",
    "\\text{",
    " and ",
    "answer is ",
    "final answer is ",
    "\n",
    "\0",
    "\u202e",
    "\ufeff",
    "\\",
    "(",
    ")",
    "[",
    "|",
    "/",
]


def test_answers_made_of_pieces_of_latex_all_get_a_verdict(pool):
    rng = random.Random(0)
    answers = ["".join(rng.choices(PIECES, k=rng.randint(1, 40))) for _ in range(150)]
    verdicts = pool.verify_many(answers, ["18"] * len(answers))
    assert len(verdicts) == len(answers) and {type(v.correct) for v in verdicts} == {bool}
    assert pool.verify(r"\boxed{18}", "18") == RIGHT


def test_the_deadline_and_its_reason(pool):
    verdict = pool.verify(HOSTILE["power tower"], "18")
    assert verdict.reason == "no verdict within 0.3 s of processor time"


JUDGE = r"""
import os, signal, sys, time
from psn_tutorial.tasks import verifier_worker
signal.signal(signal.SIGALRM, signal.SIG_IGN)  # a caller who has use of its own for these
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM, signal.SIGPROF})
acts = {
    "eat": lambda: bytearray(2 << 30), "spin": lambda: sum(1 for _ in iter(int, 1)), "sleep": lambda: time.sleep(60),
    "exit": lambda: os._exit(1), "nothing": lambda: None,
}
verifier_worker.judge = lambda response, gold: acts[response]() or (True, "")
for act in ("eat", "nothing", "spin", "sleep", "exit"):
    judge = verifier_worker.Judge(0.2, 1024, sys.stderr)
    print(judge.ask(f'["{act}", ""]'.encode()).decode())
"""


def test_memory_processor_time_waiting_and_a_crash_all_end_in_a_verdict():
    done = subprocess.run([sys.executable, "-c", JUDGE], capture_output=True, text=True, timeout=600)
    late = '[false, "no verdict within 0.2 s of processor time"]'
    assert done.stdout.splitlines() == [
        '[false, "math-verify failed: MemoryError"]',
        '[true, ""]',
        late,
        late,
        '[false, "reading it ended the verifier\'s process"]',
    ]


# Batches, threads, processes


def test_a_batch_keeps_its_order_and_hostile_answers_cost_only_themselves():
    verifier = Verifier(workers=2, deadline=0.3)
    responses = [rf"\boxed{{{n}}}" for n in range(40)]
    responses[7] = responses[21] = HOSTILE["power tower"]
    golds = [str(n // 2 * 2) for n in range(40)]
    correct = [verdict.correct for verdict in verifier.verify_many(responses, golds)]
    assert correct == [n % 2 == 0 for n in range(40)]
    assert len([worker for worker in verifier._idle.queue if worker]) == 2
    verifier.close()


def test_a_batch_of_nothing_and_one_that_does_not_match(pool):
    assert pool.verify_many([], []) == []
    with pytest.raises(UserError, match=r"golds must be as many as responses \(2\), got 1"):
        pool.verify_many(["1", "2"], ["1"])


def test_threads_get_their_own_verdicts(pool):
    found = {}

    def ask(n):
        found[n] = [pool.verify(rf"\boxed{{{n}}}", str(m)).correct for m in range(6)]

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: [n == m for m in range(6)] for n in range(6)}


SCRIPT = r"""
import os, threading
from psn_tutorial.tasks.verifier import Verifier
v = Verifier(2, deadline=1)
found = []
thread = threading.Thread(target=lambda: found.append(v.verify("18", "18").correct))
thread.start(); thread.join()
child = os.fork()
if child == 0:
    os._exit(0 if v.verify("18", "18").correct and not v.verify("17", "18").correct else 1)
print(found, os.waitpid(child, 0)[1], v.verify("18", "18").correct)
print(*[worker.process.pid for worker in v._idle.queue if worker])
"""


def test_a_script_without_a_main_guard_a_fork_and_no_process_left_behind():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=600)
    assert done.stderr == ""
    first, pids = done.stdout.splitlines()
    assert first == "[True] 0 True" and pids
    for pid in map(int, pids.split()):
        assert not psutil.pid_exists(pid) or gone(psutil.Process(pid))


def test_a_killed_caller_leaves_no_process_behind():
    code = SCRIPT.replace("child = os.fork()", "print(v._idle.queue[-1].process.pid, flush=True); os.abort()")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == -signal.SIGABRT
    pid = int(done.stdout)
    assert not psutil.pid_exists(pid) or gone(psutil.Process(pid))


@pytest.mark.parametrize("which", ["worker", "judge"])
def test_a_process_that_somebody_killed_is_replaced(pool, which):
    pool.verify("18", "18")
    worker, judge = processes(pool)
    os.kill((worker if which == "worker" else judge).pid, signal.SIGKILL)
    assert gone(worker if which == "worker" else judge)
    assert pool.verify("18", "18") == RIGHT


SIGNALLED = r"""
import os, signal
from psn_tutorial.tasks.verifier import Verifier
signal.signal(signal.SIGINT, lambda *_: None)
v = Verifier(1)
for _ in range(2):
    print(v.verify("18", "18").correct, v._idle.queue[-1].process.pid)
    os.killpg(0, signal.SIGINT)
"""


def test_ctrl_c_is_for_the_caller_alone():
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED], capture_output=True, text=True, timeout=600, start_new_session=True
    )
    first, second = done.stdout.splitlines()
    assert first == second and first.startswith("True ")


def test_closed_processes_end_and_the_pool_starts_anew():
    verifier = Verifier(workers=1)
    assert not processes(verifier)  # none before the first answer
    verifier.verify("18", "18")
    before = processes(verifier)
    assert len(before) == 2
    verifier.close()
    assert all(map(gone, before)) and not processes(verifier)
    verifier.close()
    assert verifier.verify("18", "18") == RIGHT
    verifier.close()


def test_after_ctrl_c_no_verdict_goes_to_a_later_question(pool, monkeypatch):
    def interrupted(worker):
        monkeypatch.undo()
        raise KeyboardInterrupt

    pool.verify("18", "18")
    monkeypatch.setattr(Worker, "_line", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pool.verify("17", "18")
    assert pool.verify("18", "18") == RIGHT


def test_a_process_that_dies_of_every_question_ends_in_a_verdict(pool, monkeypatch):
    def dead(worker, *question):
        raise BrokenPipeError

    monkeypatch.setattr(Worker, "ask", dead)
    assert pool.verify("18", "18") == Verdict(False, "reading it ended the verifier's process")


# What the user can get wrong


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"workers": 0}, "workers must be a whole number >= 1, got 0"),
        ({"megabytes": 1}, "megabytes must be a whole number >= 256, got 1"),
        ({"deadline": 0}, "deadline must be > 0, got 0"),
        ({"deadline": float("nan")}, "deadline must be"),
    ],
)
def test_settings_that_make_no_sense(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        Verifier(**settings)


@pytest.mark.parametrize(
    ("response", "gold", "sentence"),
    [
        (None, "18", "response must be text, got NoneType"),
        ("18", 18, "gold must be text, got int"),
    ],
)
def test_only_text_is_judged(pool, response, gold, sentence):
    with pytest.raises(UserError, match=sentence):
        pool.verify(response, gold)


def test_without_math_verify_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "math_verify.py").write_text("raise ImportError('none here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(UserError, match=r"pip install 'psn-tutorial\[math\]' \(none here\)"):
        Verifier(workers=1).verify("18", "18")


TALKATIVE = r"""
import sys
from dataclasses import dataclass, field
print("hello", flush=True)
class parser: parse_expr = None
sys.modules["math_verify.parser"] = parser
@dataclass
class Normalization:
    units: bool = True
@dataclass
class LatexExtractionConfig:
    boxed_match_priority: int = 50
    normalization_config: Normalization = field(default_factory=Normalization)
def parse(text, config=(), extraction_mode="any_match", parsing_timeout=5):
    assert parsing_timeout is None  # the kernel keeps the time
    print("[true, 1]", flush=True)
    return [text.removeprefix(r"\boxed{").removesuffix("}")]
def verify(gold, answer, *digits, timeout_seconds=5, **options):
    assert timeout_seconds is None
    return gold == answer
"""


def test_what_a_parser_prints_is_no_verdict(tmp_path, monkeypatch):
    (tmp_path / "math_verify.py").write_text(TALKATIVE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    verifier = Verifier(workers=1)
    assert verifier.verify(r"\boxed{18}", "18") == RIGHT
    assert verifier.verify("17", "18") == Verdict(False, "the answer is 17, not 18")
    verifier.close()


# Nothing is executed


@pytest.mark.parametrize("text", ["1+a", "__import__('os')", "1;2", "0x1", "1e9", "[1]", "1\\\n2", "(1).real", "1j"])
def test_only_arithmetic_reaches_the_parser_that_compiles(text):
    parse = verifier_worker.guarded(lambda text, **options: (text, options))
    with pytest.raises(ValueError, match="not arithmetic"):
        parse(text, evaluate=False)


def test_arithmetic_reaches_it_unchanged():
    parse = verifier_worker.guarded(lambda text, **options: (text, options))
    assert parse("-(1.5 + 2)**3 / 4\n* 5", evaluate=False) == ("-(1.5 + 2)**3 / 4\n* 5", {"evaluate": False})


WATCHED = r"""
import ast, json, os, sys
from psn_tutorial.tasks import verifier_worker
verifier_worker.load()
seen, watching = [], False
try:
    verifier_worker.sys.modules["math_verify.parser"].parse_expr("print")
except ValueError as error:
    seen.append(str(error))

def watch(event, arguments):
    if watching and event == "compile":
        source = arguments[0]
        seen.append(ast.unparse(source) if isinstance(source, ast.AST) else bytes(source).decode())
    elif event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
        pass  # an import
    elif watching and event.split(".")[0] in ("os", "subprocess", "socket", "shutil", "ctypes", "open"):
        seen.append(event)

sys.addaudithook(watch)
watching = True
for answer in json.load(sys.stdin):
    verifier_worker.judge(answer, "18")
watching = False
print(json.dumps(sorted(set(seen))))
"""
CODE = [
    "__import__('os').system('true')",
    "1 + __import__('os').system('true')",
    "(1).__class__.__base__",
    "exec('raise SystemExit')",
    "lambda: 0",
    "open('x', 'w')",
    "[x for x in (1, 2)]",
    "1 if True else 2",
    "f'{1}'",
]


def test_what_is_compiled_for_an_answer_that_holds_code_is_arithmetic():
    forms = (r"{}", r"\boxed{{{}}}", "The answer is {}", "answer: 1 + {}", "final answer is ${}$", "3 + 4 * ({})")
    answers = [form.format(code) for form in forms for code in CODE] + ["answer: (1 + 2) * 3^2 / 4"]
    done = subprocess.run(
        [sys.executable, "-c", WATCHED], input=json.dumps(answers), capture_output=True, text=True, timeout=600
    )
    compiled = json.loads(done.stdout)
    assert "not arithmetic" in compiled  # math-verify itself has the guarded parser
    compiled.remove("not arithmetic")
    assert compiled  # the watch sees what there is to see
    allowed = r"(Integer|Float|Add|Mul|Pow|evaluate|False|[0-9'\s.,()=*+/-])*"
    sympys_own = ("def monomial_", "from sympy import *")  # functions for its polynomials; the names it parses with
    foreign = [text for text in compiled if not re.fullmatch(allowed, text) and not text.startswith(sympys_own)]
    assert foreign == []
