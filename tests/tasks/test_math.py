"""The mathematical problems: loading them, asking them, and the shipped ones themselves."""

import json
import operator
import random
import re
import sys
import types
from fractions import Fraction
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.results import tally
from psn_tutorial.tasks import Verdict
from psn_tutorial.tasks.files import read_problems, write_problems
from psn_tutorial.tasks.math import (
    EXAMPLES,
    OWN_SPLITS,
    SOURCES,
    STYLES,
    ContradictionWarning,
    Math,
    UnclearAnswerWarning,
    load_problems,
    verify_many,
    verify_math,
)
from psn_tutorial.tasks.questions import Problem, read_row

TASK = Math()
OWN = load_problems("word_problems")

# Rows as the data sets have them, made up here, and the problem that each is.
ROWS = {
    "GSM8K": (
        {"question": "Two and two?", "answer": "It is 2+2=<<2+2=4>>4.\nTimes 300: $<<4*300=1200>>1,200.\n#### 1,200"},
        Problem("Two and two?", "1200", "It is 2+2=<<2+2=4>>4.\nTimes 300: $<<4*300=1200>>1,200."),
    ),
    "MATH-500": (
        {
            "problem": "Half?",
            "solution": "So $\\boxed{x}$.",
            "answer": "\\frac{1}{2}",
            "subject": "Algebra",
            "level": 2,
            "unique_id": "test/algebra/1.json",
        },
        Problem("Half?", "\\frac{1}{2}", "So $\\boxed{x}$.", "test/algebra/1.json", "Algebra", 2),
    ),
    "MATH": (
        {
            "problem": "Which?",
            "solution": "Not $\\boxed{1}$ but $\\boxed{\\frac{a}{{b}}}$ it is.",
            "level": "Level 5",
            "type": "Geometry",
        },
        Problem("Which?", "\\frac{a}{{b}}", "Not $\\boxed{1}$ but $\\boxed{\\frac{a}{{b}}}$ it is.", "", "Geometry", 5),
    ),
    "AIME": (
        {"id": 60, "problem": "How many?", "solution": "Long.", "answer": "204", "url": "", "year": "2024"},
        Problem("How many?", "204", "Long.", "60"),
    ),
    "AIME as a number": ({"problem": "How many?", "answer": 204}, Problem("How many?", "204")),
    "AMC23": ({"id": 0, "answer": 27.0, "question": "How far?"}, Problem("How far?", "27", "", "0")),
    "a decimal": ({"answer": 2.5, "question": "How far?"}, Problem("How far?", "2.5")),
    "Minerva": ({"question": "Which mass?", "answer": "4.5e33"}, Problem("Which mass?", "4.5e33")),
    "a small number": ({"question": "?", "answer": "-2E-07"}, Problem("?", "-2E-07")),
    "no number": ({"question": "?", "answer": "2e+x"}, Problem("?", "2e+x")),
    "OlympiadBench": (
        {
            "id": 1606,
            "subfield": "Algebra",
            "question": "Which pairs?",
            "solution": ["One way.", "Another."],
            "final_answer": ["$(1,8)$", "$(2,4)$"],
            "is_multiple_answer": True,
        },
        Problem("Which pairs?", "(1,8), (2,4)", "One way.\nAnother.", "1606", "Algebra"),
    ),
    "dollars around the answer": ({"question": "?", "answer": " $x^2$ "}, Problem("?", "x^2")),
    "dollars around each of two": ({"question": "?", "answer": "$1$, $2$."}, Problem("?", "1, 2")),
    "SVAMP": (
        {
            "ID": "chal-1",
            "Body": "Each pack costs 76 dollars. There is a discount of 25 dollars on each pack",
            "Question": "What does a pack cost?",
            "Equation": "( 76.0 - 25.0 )",
            "Answer": 51.0,
            "Type": "Subtraction",
        },
        Problem(
            "Each pack costs 76 dollars. There is a discount of 25 dollars on each pack\nWhat does a pack cost?",
            "51",
            "",
            "chal-1",
            "Subtraction",
        ),
    ),
    "ASDiv": (
        {"body": "Seven apples and two.", "question": "How many?", "answer": "9 (apples)", "formula": "7+2=9"},
        Problem("Seven apples and two.\nHow many?", "9"),
    ),
    "OlympiadBench in physics": (
        {"context": "A rod falls.", "question": "How fast?", "final_answer": ["$v$"], "image_1": None, "unit": "m/s"},
        Problem("A rod falls.\nHow fast?", "v"),
    ),
    "a context that the question repeats": (
        {"context": "A rod falls.", "problem": "A rod falls. How fast?", "answer": "3"},
        Problem("A rod falls. How fast?", "3"),
    ),
    "MetaMath": (
        {"question": "?", "answer": "2 + 2 = 4.\n#### 4\nThe answer is: 4"},
        Problem("?", "4", "2 + 2 = 4."),
    ),
    "a worked answer with a box": (
        {"problem": "?", "answer": "So $x = \\boxed{4}$."},
        Problem("?", "4", "So $x = \\boxed{4}$."),
    ),
}

BROKEN = [
    ("{", "is not JSON"),
    ("[1]", "must be a JSON object, got list"),
    ("{}", "must have its text in the field question or problem, it has none"),
    ('{"question": " ", "answer": "1"}', "must have its text in the field question or problem"),
    ('{"question": 7, "answer": "1"}', "must have its text in the field question or problem"),
    ('{"text": "?", "answer": "1"}', "it has text, answer"),
    ('{"question": "?"}', "must have the field answer, final_answer or solution, it has question"),
    ('{"question": "?", "answer": ""}', "answer is empty"),
    ('{"question": "?", "answer": "$$"}', "answer is empty"),
    ('{"question": "?", "answer": "so\\n####  "}', "answer is empty"),
    ('{"question": "?", "answer": [1]}', r"answer must be text or a number, got \[1\]"),
    ('{"question": "?", "answer": true}', "answer must be text or a number, got True"),
    ('{"question": "?", "answer": NaN}', "NaN is not valid JSON"),
    ('{"question": "?", "answer": -Infinity}', "-Infinity is not valid JSON"),
    ('{"question": "?", "answer": 1e400}', "1e400 is too large a number"),
    ('{"question": "?", "answer": "NaN"}', "answer is 'NaN', as libraries write a value that is missing"),
    ('{"question": "?", "answer": null}', "must have the field answer, final_answer or solution"),
    ('{"question": "?", "answer": {"value": 1}}', "answer must be text or a number"),
    ('{"question": "?", "answer": "1", "answer": "2"}', "the field 'answer' stands twice in one object"),
    ('{"question": "?", "answer": "1", "Answer": "2"}', "has the field answer twice, in capital and in small letters"),
    ('{"question": "?", "final_answer": [["1"]]}', "final_answer must be text or a number"),
    ('{"question": "?", "final_answer": ["", "1"]}', "final_answer is empty"),
    ('{"question": "?", "solution": {"steps": 1}}', "solution must be text or a list of texts"),
    ('{"question": "How fast?", "problem": "A rod falls.", "answer": "1"}', "has both a question and a problem"),
    ('{"question": "?", "answer": "1", "context": ["A rod"]}', "context must be text, got"),
    ('{"question": "?", "answer": 0, "choices": ["3", "4"]}', "choices is a part of the question that the model would"),
    ('{"Problem": "?", "options": "a ) 3", "Answer": "a"}', "options is a part of the question"),
    ('{"question": "?", "answer": "1", "image_1": "rod.png"}', "image_1 is a part of the question"),
    ('{"question": "?", "answer": "1", "input": "3 4"}', "input is a part of the question"),
    ('{"question": "?", "final_answer": [null]}', "final_answer must be text or a number, got None"),
    ('{"question": "?", "final_answer": []}', "answer is empty"),
    ('{"problem": "?", "solution": "So \\\\boxed{} it is."}', r"solution holds no complete \\boxed"),
    ('{"problem": "?", "solution": "none"}', r"solution holds no complete \\boxed"),
    ('{"problem": "?", "solution": "\\\\boxed{\\\\frac{1}{2}"}', r"solution holds no complete \\boxed"),
]


# Loading


@pytest.mark.parametrize("name", ROWS)
def test_the_fields_of_a_row_tell_where_its_parts_are(name):
    row, problem = ROWS[name]
    assert read_row(row, "here") == problem


def test_a_file_is_read_in_its_order_whatever_the_set(tmp_path):
    path = tmp_path / "mixed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row, _ in ROWS.values()))
    with pytest.warns(ContradictionWarning):  # several ask "?"
        assert load_problems("mine", path=path) == [problem for _, problem in ROWS.values()]
        assert load_problems("gsm8k", split="test", path=path) == load_problems("mine", path=str(path))


@pytest.mark.parametrize(
    ("written", "gold"),
    [
        ("1,234", "1234"),
        ("-1,234,567.5", "-1234567.5"),
        ("1,00,000", "100000"),
        ("(3,4)", "(3,4)"),
        ("(1,234)", "(1,234)"),
        ("3, 4", "3, 4"),
        ("1,234, 5,678", "1,234, 5,678"),
        ("3,4", "3,4"),
        ("25.", "25"),
        ("25.50", "25.50"),
        ("25 dollars", "25"),
        ("25 miles per hour.", "25"),
        ("$25", "25"),
        ("\\$25.", "25"),
        ("-$25", "-25"),
        ("$-25", "-25"),
        ("€ 1,250 ", "1250"),
        ("25%", "25%"),  # which 25 meets, and 0.25
        ("25 \\%", "25 \\%"),
        ("25¢", "25"),
        # neither of these is its first number
        ("5 million", "5 million"),
        ("3 hours 20 minutes", "3 hours 20 minutes"),
        ("3 or more", "3 or more"),
        ("25 x", "25 x"),
        ("3/4", "3/4"),
        ("\\left\\{1\\right.", "\\left\\{1\\right."),
    ],
)
@pytest.mark.parametrize("row", ["It is.\n#### {}", "####{}", "{}"])
def test_a_gold_is_the_one_number_that_is_written(written, gold, row):
    assert read_row({"question": "?", "answer": row.format(written)}, "here").answer == gold
    assert read_row({"question": "?", "answer": gold}, "here").answer == gold


def test_the_number_meets_such_a_gold():
    written = ["25.", "25 dollars", "$25", "25%", "25 (apples)", "0025 cents"]
    golds = [read_row({"question": "?", "answer": f"#### {text}"}, "here").answer for text in written]
    assert verify_many([r"\boxed{25}"] * len(golds), golds) == [True] * len(golds)
    assert verify_many([r"\boxed{34}", r"\boxed{(3,4)}"], ["(3,4)"] * 2) == [False, True]


@pytest.mark.parametrize(
    ("number", "gold"),
    [
        (1.0, "1"),
        (-0.0, "0"),
        (1e23, "1" + "0" * 23),
        (0.1, "0.1"),
        (1e-7, "1e-07"),
        (10**20, f"1{'0' * 20}"),
    ],
)
def test_a_gold_that_is_a_number_of_json(number, gold):
    assert read_row(json.loads(json.dumps({"question": "?", "answer": number})), "here").answer == gold


def test_a_row_from_elsewhere_may_hold_what_json_cannot():
    with pytest.raises(UserError, match="here: answer must be text or a number, got nan"):
        read_row({"question": "?", "answer": float("nan")}, "here")


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"So it is $\boxed 2$.", "2"),
        (r"So it is $\boxed {2}$.", "2"),
        (r"So it is \fbox{2}.", "2"),
        (r"So $f(x) = \boxed{\left\{ a \right.}$.", r"\left\{ a \right."),
        (r"So it is \boxed{\{1, 2\}}.", r"\{1, 2\}"),
        (r"So it is \boxed{\boxed{2}}.", "2"),
        (r"\boxed{58,500}", "58500"),
        (r"\boxed{\$18.90}", "18.90"),
    ],
)
def test_every_style_of_box_in_a_solution_is_read(solution, answer):
    assert read_row({"problem": "?", "solution": solution}, "here").answer == answer


def test_a_question_with_two_answers_is_told_once(tmp_path):
    rows = [("Two?", "2"), ("Half?", "1/2"), ("two? ", "3"), ("Two?", "4"), ("HALF?", "1/2")]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in rows))
    sentence = "p.jsonl line 3 asks what p.jsonl line 1 asks, and its answer is '3', not '2'; 1 more do so"
    with pytest.warns(ContradictionWarning) as told:
        assert len(load_problems("mine", path=path)) == 5
    assert [str(warning.message) for warning in told] == [sentence]


@pytest.mark.parametrize(("line", "reason"), BROKEN)
def test_a_broken_line_is_named_with_its_number_and_the_reason(tmp_path, line, reason):
    path = tmp_path / "broken.jsonl"
    path.write_text('{"question": "?", "answer": "1"}\n' + line + "\n")
    with pytest.raises(UserError, match=rf"^broken\.jsonl line 2.*{reason}"):
        load_problems("gsm8k", path=path)


def test_a_file_that_is_not_there_or_holds_nothing(tmp_path):
    with pytest.raises(UserError, match=r"none\.jsonl cannot be read: No such file"):
        load_problems("gsm8k", path=tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(UserError, match=r"empty\.jsonl holds no problems"):
        load_problems("gsm8k", path=tmp_path / "empty.jsonl")


@pytest.mark.parametrize(
    ("source", "split", "sentence"),
    [
        ("gsm9k", None, "source must be one of word_problems, sums, gsm8k, .*got 'gsm9k' .did you mean 'gsm8k'"),
        ("gsm8k", "eval", "split must be one of 'test', 'train', got 'eval'"),
        ("math500", "train", "split must be one of 'test', got 'train'"),
        ("word_problems", "test", "split must be one of 'train', 'eval', got 'test'"),
    ],
)
def test_unknown_names_are_refused(source, split, sentence):
    with pytest.raises(UserError, match=sentence):
        load_problems(source, split)


@pytest.fixture
def hub(monkeypatch):
    """A library datasets that notes what it is asked for, and gives what ``rows`` says or raises it."""
    library = types.ModuleType("datasets")
    library.asked, library.rows = [], [{"question": "?", "answer": "1"}]

    def load_dataset(*names, split):
        library.asked.append((*names, split))
        if isinstance(library.rows, Exception):
            raise library.rows
        return library.rows

    library.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", library)
    return library


@pytest.mark.parametrize(
    ("source", "split", "asked"),
    [
        ("gsm8k", None, ("openai/gsm8k", "main", "test")),
        ("GSM8K", "train", ("openai/gsm8k", "main", "train")),
        ("MATH-500", None, ("HuggingFaceH4/MATH-500", None, "test")),
        ("aime_2024", None, ("HuggingFaceH4/aime_2024", None, "train")),
        ("AIME 2025", "test", ("math-ai/aime25", None, "test")),
        ("AMC23", None, ("math-ai/amc23", None, "test")),
        ("minerva", None, ("math-ai/minervamath", None, "test")),
        ("OlympiadBench", None, ("math-ai/olympiadbench", None, "test")),
    ],
)
def test_the_hub_is_asked_for_the_set_its_configuration_and_split(hub, source, split, asked):
    assert load_problems(source, split) == [Problem("?", "1")]
    assert hub.asked == [asked]
    assert len(SOURCES) == 7


def test_a_row_of_the_hub_that_is_wrong_is_named(hub):
    hub.rows = [*hub.rows, {"question": "?"}]
    with pytest.raises(UserError, match="^gsm8k row 2 must have the field answer"):
        load_problems("gsm8k")


def test_an_unreachable_hub_is_told_in_one_sentence(hub):
    hub.rows = ConnectionError("Couldn't reach\n the hub " + "x" * 500)
    with pytest.raises(UserError) as caught:
        load_problems("gsm8k")
    sentence = str(caught.value)
    assert sentence.startswith("cannot load gsm8k (openai/gsm8k, split test) from the hub: ConnectionError: Couldn't ")
    assert sentence.endswith("or give path=, a file of it with a JSON object on each line") and len(sentence) < 400


def test_without_the_library_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="gsm8k is on the hub: pip install datasets, or give path="):
        load_problems("gsm8k")


# Answers


def test_verify_math_and_a_batch():
    assert verify_math(r"Add: $\boxed{\frac{2}{4}}$.", "0.5") is True
    assert verify_math(r"\boxed{9^{9^{9^{9}}}}", "0.5") is False
    assert verify_math(r"\boxed{45 \cdot 10^{32}}", ROWS["Minerva"][1].answer) is True
    assert verify_many([r"\boxed{1}", r"\boxed{2}", "10,000 it is"], ["1", "1", "10{,}000"]) == [True, False, True]


def test_the_task_judges_and_says_why():
    problem = Problem("?", r"\frac{1}{2}")
    assert TASK.verify("It is 0.5.", problem) == Verdict(True, "", r"\frac{1}{2}", r"\frac{1}{2}")
    assert TASK.verify("It is 0.6.", problem) == Verdict(False, r"the answer is 0.6, not \frac{1}{2}")
    assert TASK.verify_many(["1", "2"], [Problem("?", "2")] * 2)[1].correct
    with pytest.raises(UserError, match="cannot be listed"):
        TASK.families(problem)
    result = tally(problem, {r"\boxed{\frac{1}{2}}": 2, "?": 1}, TASK)
    assert (result.n, result.c, result.total_solutions) == (3, 2, None)


# The task


def test_the_conversation_asks_in_qwens_boxed_format():
    question = "How many \\emph{legs} have {3} ants?"
    asked = f"{question}\nPlease reason step by step, and put your final answer within \\boxed{{}}."
    assert TASK.prompt(Problem(question, "18")) == asked
    system, user = TASK.messages(Problem(question, "18"))
    assert system == {"role": "system", "content": "You are a helpful assistant."}
    assert user == {"role": "user", "content": asked}


def test_worked_examples_stand_before_the_question_in_the_style_that_is_asked_for():
    problem = Problem("How many legs have 3 ants?", "18")
    system, *shown, last = Math(style="line", examples=2).messages(problem)
    assert system["content"] == "Answer in one line: the calculation, then the result in \\boxed{}."
    assert [turn["role"] for turn in shown] == ["user", "assistant"] * 2
    assert shown[1]["content"] == "3 + 4 - 2 = 5. \\boxed{5}"
    assert last == {"role": "user", "content": "How many legs have 3 ants?"}
    _, _, steps, _ = Math(examples=1).messages(problem)
    assert steps["content"] == "3 + 4 - 2 = 5. The answer is \\boxed{5}."


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.parametrize("style", STYLES)
def test_a_worked_example_is_right(style, example):
    assert verify_math(STYLES[style].answer.format(example), example.answer)
    left, right = example.solution.rstrip(".").split(" = ")
    assert Fraction(eval(left)) == Fraction(right) == Fraction(example.answer)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"style": "prose"}, "style must be one of 'steps', 'line', got 'prose'"),
        ({"examples": 5}, "examples must be a whole number >= 0 and <= 4, got 5"),
        ({"examples": -1}, "examples must be a whole number >= 0 and <= 4, got -1"),
    ],
)
def test_a_conversation_that_there_is_not(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        Math(**settings)


def test_the_protocol_of_tasks():
    task = Math(completion=7)
    assert task.name == "math" and task.words == [] and task.ends is True
    assert task.max_tokens(OWN[0]) == 7 and Math().max_tokens(OWN[0]) == 1024
    with pytest.raises(UserError, match="completion must be a whole number >= 1 and <="):
        Math(completion=0)
    for wrong in ({"path": 3}, {"path": ""}, {"source": None}, {"split": ["eval"]}):
        with pytest.raises(UserError, match=f"{next(iter(wrong))} must be a text, got "):
            Math(**wrong)


def test_problems_are_drawn_by_the_seed_without_repeats():
    some = Math(split="eval").generate(seed=3, count=10)
    assert some == Math(split="eval").generate(seed=3, count=10) != Math(split="eval").generate(seed=4, count=10)
    held_out = load_problems("word_problems", "eval")
    assert len(set(some)) == 10 and set(some) <= set(held_out)
    rest = Math(split="eval").generate(seed=3, count=len(held_out) - 10, exclude=some)
    assert not set(rest) & set(some)
    with pytest.raises(UserError, match=rf"count must be a whole number >= 0 and <= {len(held_out)}"):
        Math(split="eval").generate(seed=3, count=len(held_out) + 1)


def test_a_demonstration_is_the_worked_solution_and_the_boxed_answer():
    problem = ROWS["GSM8K"][1]
    shown = TASK.demonstration(problem, random.Random(0))
    assert shown.text == r"It is 2+2=4. Times 300: $1,200. The answer is \boxed{1200}."
    assert shown.loss == (True,) * len(shown.text.split(" ")) and shown.end_loss
    assert TASK.verify(shown.text, problem).correct
    with pytest.raises(UserError, match="problem 'Which mass.' has no solution to demonstrate"):
        TASK.demonstration(ROWS["Minerva"][1], random.Random(0))


@pytest.mark.parametrize("name", ROWS)
def test_a_problem_survives_its_own_line(name, tmp_path):
    problem = ROWS[name][1]
    write_problems(tmp_path / "one.jsonl", TASK, [problem])
    assert read_problems(tmp_path / "one.jsonl", TASK) == [problem]


TEXT = st.text(min_size=1).map(str.strip).filter(bool)


def gold(text):
    """What loading makes of an answer; None if it refuses it."""
    try:
        return read_row({"question": "?", "answer": text}, "here").answer
    except UserError:
        return None


ANSWER = TEXT.filter(lambda text: gold(text) == text)


@given(TEXT | st.text(alphabet="0123456789.,$%- x)", min_size=1))
def test_a_gold_is_made_plain_once(text):
    assert gold(text) is None or gold(gold(text)) == gold(text)


@given(st.builds(Problem, TEXT, ANSWER, st.text().map(str.strip), st.text(), st.text(), st.integers(0, 5)))
def test_any_problem_survives_json(problem):
    assert TASK.from_json(json.loads(json.dumps(TASK.to_json(problem))), "here") == problem


# The problems written for this project

EQUATION = re.compile(r"(?<![\w./])([0-9(][0-9.+*/() -]*?) = (-?[0-9]+(?:\.[0-9]+)?(?:/[0-9]+)?)(?![0-9/])")
TOPICS = {
    "rates",
    "money",
    "fractions",
    "percentages",
    "geometry",
    "time",
    "mixtures",
    "counting",
    "probability",
    "numbers",
    "logic",
    "units",
}
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def value(text):
    """The value of + - * / ( ) and decimals as a fraction, by recursive descent: nothing is evaluated."""
    tokens = re.findall(r"[0-9]+(?:\.[0-9]+)?|[()+*/-]", text) + [""]
    assert "".join(tokens) == text.replace(" ", "")

    def atom():
        token = tokens.pop(0)
        if token != "(":
            return Fraction(token)
        inner = chain("+-", lambda: chain("*/", atom))
        assert tokens.pop(0) == ")"
        return inner

    def chain(signs, part):
        result = part()
        while tokens[0] and tokens[0] in signs:
            result = OPERATORS[tokens.pop(0)](result, part())
        return result

    result = chain("+-", lambda: chain("*/", atom))
    assert tokens == [""]
    return result


@pytest.mark.parametrize(
    ("text", "fraction"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("10 - 4 - 3", 3),
        ("12 / 4 / 3", 1),
        ("(1/4) / (1/12)", 3),
        ("3 - 3", 0),
        ("0.1 * 3", Fraction(3, 10)),
        ("2 * (3 - 3)", 0),
    ],
)
def test_the_arithmetic_of_these_tests(text, fraction):
    assert value(text) == fraction


def test_there_are_240_of_twelve_topics_and_five_levels():
    assert len(OWN) == 240 and {p.topic for p in OWN} == TOPICS
    assert all(sum(p.topic == topic for p in OWN) == 20 for topic in TOPICS)
    levels = [sum(p.level == level for p in OWN) for level in range(1, 6)]
    assert levels == [36, 60, 60, 48, 36]
    assert len({p.id for p in OWN}) == len({p.question for p in OWN}) == 240


@pytest.mark.parametrize("problem", OWN, ids=lambda problem: problem.id)
def test_a_worked_solution_is_right_and_ends_at_the_answer(problem):
    equations = EQUATION.findall(problem.solution)
    assert len(equations) == problem.solution.count("=") >= 1  # none is left unread
    for left, right in equations:
        assert re.search("[+*/-]", left) and value(left) == Fraction(right), f"{left} = {right}"
    assert Fraction(equations[-1][1]) == Fraction(problem.answer)
    assert problem.question.strip() == problem.question and re.search(r"[.?)]$", problem.question)
    assert all(line.endswith((".", ":")) for line in problem.solution.split("\n"))


def test_harder_problems_take_more_steps():
    steps = [[p.solution.count("=") for p in OWN if p.level == level] for level in range(1, 6)]
    means = [sum(counts) / len(counts) for counts in steps]
    assert all(easy < hard for easy, hard in pairwise(means))


def test_no_two_questions_are_alike():
    shingles = []
    for problem in OWN:
        words = re.findall(r"[a-z0-9]+", problem.question.lower())
        shingles.append({tuple(words[i : i + 3]) for i in range(len(words) - 2)})
    alike = [(len(a & b) / len(a | b), i, j) for (i, a), (j, b) in combinations(enumerate(shingles), 2)]
    assert max(alike)[0] < 0.2, max(alike)


def test_every_answer_is_recognised_and_a_near_miss_is_not():
    right = [TASK.demonstration(problem, random.Random(0)).text for problem in OWN]
    near = [rf"The answer is \boxed{{{Fraction(problem.answer) + Fraction(1, 7)}}}." for problem in OWN]
    golds = [problem.answer for problem in OWN]
    assert verify_many(right, golds) == [True] * 240
    assert verify_many(near, golds) == [False] * 240


def test_the_splits_are_disjoint_and_have_every_topic_and_level():
    train, held_out = (load_problems("word_problems", split) for split in OWN_SPLITS)
    assert len(train) == 192 and len(held_out) == 48
    assert sorted(train + held_out, key=lambda p: p.id) == sorted(OWN, key=lambda p: p.id)
    for some in (train, held_out):
        assert {p.topic for p in some} == TOPICS and {p.level for p in some} == {1, 2, 3, 4, 5}


# Reference answers that cannot be judged, and tolerances


def write(path, *answers, **more):
    rows = [{"question": f"Number {n}?", "answer": answer, **more} for n, answer in enumerate(answers)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_problem_whose_answer_cannot_be_judged_is_left_out_and_told(tmp_path):
    path = write(
        tmp_path / "minerva.jsonl", "7", r"$f(x)=a x+b$, where $b$ is an arbitrary integer", "x+1", r"\frac{1}{2"
    )
    with pytest.warns(UnclearAnswerWarning) as told:
        problems = load_problems("mine", path=path)
    assert [problem.answer for problem in problems] == ["7", "x+1"]
    (warning,) = told
    assert str(warning.message) == (
        "minerva.jsonl line 2: the reference answer '$f(x)=a x+b$, where $b$ is an arbitrary integer' "
        "cannot be judged: the words 'where' cannot be compared. The problem is left out, as 1 more of the 4 are"
    )


def test_a_file_without_an_answer_that_can_be_judged_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"line 1: .* cannot be judged: math-verify cannot read it; nor can any other"):
        load_problems("mine", path=write(tmp_path / "bad.jsonl", r"\frac{1}{2", r"x^2+"))


@pytest.mark.parametrize(("error", "tolerance"), [("1e-1", 0.1), (0.02, 0.02), ("0.1,0.01", 0.01), ("", 0.0)])
def test_the_field_error_is_a_tolerance(tmp_path, error, tolerance):
    task = Math()
    (problem,) = load_problems("olympiad", path=write(tmp_path / "o.jsonl", "3.0", error=error))
    assert problem.tolerance == tolerance
    assert task.from_json(task.to_json(problem), "here") == problem
    assert task.verify(rf"\boxed{{{3 + tolerance / 2}}}", problem).correct
    assert not task.verify(rf"\boxed{{{3 + tolerance * 2 + 0.01}}}", problem).correct


@pytest.mark.parametrize("error", ["wide", -1, "1e400", True, [1]])
def test_a_tolerance_that_is_none(tmp_path, error):
    with pytest.raises(UserError, match=r"line 1: error must be a number >= 0, how far an answer may lie from it"):
        load_problems("olympiad", path=write(tmp_path / "o.jsonl", "3.0", error=error))
