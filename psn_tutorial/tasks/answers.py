"""What a response gives as its answer: where the answer stands, and how it is written plainly.

Models write the same number in many ways, and math-verify reads some of them. So the text is made plain first, by
tables of characters and words; math-verify then decides. Nothing here knows whether an answer is right.

Every function takes time linear in the length of the text: what a model wrote may be hostile.
"""

import re
from typing import NamedTuple

from psn_tutorial.tasks.notation import bare, plain, without_unit


class Box(NamedTuple):
    """One \\boxed{...} or \\fbox{...}: ``text[start:end]``. content: None where its brace is never closed."""

    content: str | None
    start: int
    end: int


TOKEN = re.compile(r"(\\+(?:boxed|fbox)(?![a-zA-Z])\s*)|\\.|[{}]", re.DOTALL)
UNBRACED = re.compile(
    r"[-+]?[\d.,/]*\d|[a-zA-Z](?![a-zA-Z])|\\[a-zA-Z]+(?:\s*\{[^{}]*\})*"
)  # as TeX takes it, and "12"


def boxes(text: str) -> list[Box]:
    """All boxes of ``text`` by where they begin. Braces are balanced; \\{ and \\} are no braces."""
    found: dict[int, Box] = {}
    braces: list[
        tuple[int, int]
    ] = []  # of those that are open: where the box begins (-1: none), where its content does
    awaited = -1  # a box has just been named and its brace is to come
    for token in TOKEN.finditer(text):
        here, box = token.start(), token[1]
        if token[0] == "{":
            braces.append((awaited, token.end()))
        elif token[0] == "}" and braces:
            start, inside = braces.pop()
            if start >= 0:
                found[start] = Box(text[inside:here], start, token.end())
        awaited = -1
        if box and text[token.end() : token.end() + 1] == "{":
            found[here], awaited = Box(None, here, len(text)), here
        elif box and (word := UNBRACED.match(text, token.end())):
            found[here] = Box(word[0], here, word.end())
        elif box and token.end() == len(text):
            found[here] = Box(None, here, token.end())
    return [found[start] for start in sorted(found)]


def last_box(text: str) -> str | None:
    """What the last box of ``text`` that is not empty holds; None if there is none, or it is not complete."""
    for box in reversed(boxes(text)):
        if box.content is None or box.content.strip():
            return box.content
    return None


class Answer(NamedTuple):
    """What a response gives as its answer.

    latex: the answer as LaTeX, :func:`psn_tutorial.tasks.notation.bare`; a second one is all boxes of the last
        sentence together, for a reference answer that is a pair or a list.
    prose: text for math-verify's own search, where no place was found.
    reason: why there is no answer; "" where there is one.
    """

    latex: tuple[str, ...] = ()
    prose: str = ""
    reason: str = ""


STATED = re.compile(r"####\s*[-+$\\]*\d|answer\s*(?:is|:)", re.IGNORECASE)
NEXT_TURN = re.compile(
    r"<\|(?:im_start|im_end|endoftext|eot_id|end|user)\|>|\n[#*_>\t -]*"
    r"(?:(?:user|human|assistant)[ \t]*(?:\n|:)|(?:question|problem|q|instruction|input)[ \t]*\d*[ \t]*(?:\n|[:.*]))",
    re.IGNORECASE,
)
EMPHASIS = re.compile(
    r"(?<![\w*\\])\*{1,3}(?=[^\s*])([^*\n]{1,200}?)(?<=[^\s*])\*{1,3}(?![\w*])"
    r"|(?<![\w\\])_{1,3}(?=[^\s_])([^_\n]{1,200}?)(?<=[^\s_])_{1,3}(?!\w)|`+"
)
CHINESE = re.compile(r"(?:最终|正确)?答案\s*(?:是|为)?\s*:?")
MARKED = re.compile(r"####[ \t]*(?:answer\s*:)?[ \t]*([-+$(\[]*\.?\d[^\n#]{0,100}|\\[^\n#]{1,100})", re.IGNORECASE)
HEADING = re.compile(r"\d+[.)]\s+[A-Za-z]")  # "#### 1. First we add"
ANNOUNCED = re.compile(r"answer\s*(?:is|:|=)\s*:?\s*", re.IGNORECASE)
DENIED = re.compile(r"(?:not|unknown|unclear|undetermined)\b", re.IGNORECASE)
REFUSAL = re.compile(  # of the one who answers; a person in the problem may be "unable to sell 3 of them"
    r"\bI(?:\s+am|'m)?\s+(?:cannot|can't|can not|could not|couldn't|do not know|don't know|have no idea|unable|sorry"
    r"|not able|not sure|give up|apologi[sz]e|won't|will not)\b|\bwe(?:\s+are|'re)\s+(?:unable|sorry|not able)\b"
    r"|(?:\A|[.!?]\s+)(?:sorry|unable|as an ai)\b"
    r"|\benough information\b|\bno answer\b|\b(?:cannot|can't) be (?:determined|solved|answered|found)"
    r"|\bimpossible to (?:determine|solve|answer|say|know)",
    re.IGNORECASE,
)
COUNTING = re.compile(r"(?:(?<![\d.,])-?\d{1,9}(?:,\s*|\s+)){3,}(?:(?:and|or)\s+)?-?\d{1,9}\W*\Z")
FUNCTIONS = frozenset("sin cos tan cot sec csc log ln exp sqrt pi and or".split())


def find_answer(response: str) -> Answer:
    """Where ``response`` gives its answer.

    The last box; else what follows the last ####; else a response, or an announcement ("the answer is ..."), that is
    nothing but mathematics; else the prose. An invented next turn is cut off before; thoughts count only where nothing
    follows them. No answer: a last box that is not complete, a refusal, numbers counted up to the end.
    """
    text = _final_part(_own_turn(plain(response)))
    found = [box for box in boxes(text) if box.content is None or box.content.strip()]
    if found:
        return _boxed(text, found)
    text = CHINESE.sub(" The answer is ", EMPHASIS.sub(r" \1\2 ", text)).replace(r"\$", "$").strip()
    marked = MARKED.findall(text)
    if marked and not HEADING.match(marked[-1]):
        return _mathematics(marked[-1]) or Answer(prose=f"The answer is {marked[-1]}")
    if "\n" not in text and (answer := _mathematics(text)):
        return answer
    return _announced(text) or _without_answer(text) or Answer(prose=text)


def _own_turn(text: str) -> str:
    """``text`` up to where, after an answer, the model goes on as its user."""
    ends = [box.end for box in boxes(text) if box.content and box.content.strip()][:1]
    ends += [stated.end() for stated in [STATED.search(text)] if stated]
    turn = NEXT_TURN.search(text, min(ends)) if ends else None
    return text[: turn.start()] if turn else text


def _final_part(text: str) -> str:
    """What follows the thoughts; of that, what <answer> marks."""
    after = text.rpartition("</think>")[2]
    text = after if after.strip() else text
    marks = list(re.finditer(r"<(?:final_)?answer>", text, re.IGNORECASE))
    inside = re.split(r"</(?:final_)?answer>", text[marks[-1].end() :], flags=re.IGNORECASE)[0] if marks else ""
    return inside if inside.strip() else text


def _boxed(text: str, found: list[Box]) -> Answer:
    """The last box decides; "or" between it and the box before it makes an answer of both."""
    if found[-1].content is None:
        return Answer(reason="no answer found: the last box is not complete")
    percent = "%" if re.match(r"\s*\\?%", text[found[-1].end :][:20]) else ""
    last, together = bare(found[-1].content + percent), found[-1:]
    for box in reversed(found[:-1]):
        between = text[box.end : together[0].start]
        if box.content is None or len(between) > 40 or re.search(r"[.!?]\s|\n\s*\n|^\s*$", between):
            break
        together.insert(0, box)
    if len(together) == 1:
        return Answer((last,))
    joined = ", ".join(without_unit(bare(box.content or "")) for box in together)
    hedged = re.search(r"\bor\b", text[together[-2].end : together[-1].start])
    return Answer((joined,) if hedged else (last, joined))


def _announced(text: str) -> Answer | None:
    """What the last "the answer is" announces."""
    places = [found.end() for found in ANNOUNCED.finditer(text)]
    if not places:
        return None
    rest = text[places[-1] :]
    sentence = re.split(r"\.(?:\s|\Z)|\n", rest[:200])[0]
    if DENIED.match(sentence):
        return Answer(reason="no answer found: the response says what it is not")
    if len(rest) < 40 and not re.search(r"[\d$\\]", rest):  # "the answer is Tuesday."
        return Answer((bare(rest),))
    return _mathematics(sentence) or Answer(prose=text)


def _without_answer(text: str) -> Answer | None:
    if REFUSAL.search(text):
        return Answer(reason="no answer found: the response says that it has none")
    if COUNTING.search(text[-400:]):
        return Answer(reason="no answer found: the response ends with a row of numbers")
    return None


def _mathematics(text: str) -> Answer | None:
    """The answer that ``text`` is, if no words in it have to be understood, and it is no calculation: of "3*4 = 12"
    math-verify takes what comes last."""
    if len(text) > 200:
        return None
    answer = bare(text)
    words = re.findall(r"[^\W\d_]{2,}", re.sub(r"\\[a-zA-Z]+(?:\{[a-zA-Z ]*\})?", " ", without_unit(answer)))
    calculation = "=" in answer and not re.search("[a-zA-Z]", answer)
    if calculation or not set(words) <= FUNCTIONS or not re.search(r"\d|\\", text):
        return None
    return Answer((answer,)) if answer else Answer(reason="no answer found: several numbers, and nothing says which")
