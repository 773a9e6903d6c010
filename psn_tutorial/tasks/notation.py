"""Plain notation: the many ways in which models write one number, made the few that math-verify reads.

``plain`` is for any text: characters alone change, so that prose stays prose. ``bare`` is for one answer, such as what
stands in a box: fonts, colours, currency, units and the full stop go, thousands and repeating decimals become numbers.

Every function takes time linear in the length of the text: what a model wrote may be hostile.
"""

import re
import unicodedata
from fractions import Fraction

# Characters that NFKC leaves, or would make something else of. Letters become commands, which a blank ends.
SIGNS = {"-": "−‐‑‒", "*": "×·⋅∙", "/": "÷⁄∕", "'": "’", ".": "。", " cents": "¢", r"^\circ ": "°º", r"\mathbb{R}": "ℝ"}
COMMANDS = {
    "le": "≤⩽", "ge": "≥⩾", "ne": "≠", "approx": "≈", "pm": "±", "mp": "∓", "infty": "∞", "in": "∈", "emptyset": "∅",
    "cup": "∪", "cap": "∩", "pi": "π", "alpha": "α", "beta": "β", "gamma": "γ", "theta": "θ", "lambda": "λ", "mu": "μ",
    "omega": "ω", "phi": "φ",
}  # fmt: skip
CHARACTERS = str.maketrans(
    {"℃": r"^\circ C", "℉": r"^\circ F"}
    | {character: sign for sign, characters in SIGNS.items() for character in characters}
    | {character: rf"\{command} " for command, characters in COMMANDS.items() for character in characters}
)
RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ", "0123456789+-()ni")
LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙ", "0123456789+-()n")
POWER = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ]+")
INDEX = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙ]+")
ROOT = re.compile(r"([√∛∜]|[²³⁴⁵⁶⁷⁸⁹]√)\s*(?:[({]([^(){}]*)[)}]|(\d+(?:\.\d+)?|[a-zA-Zπ]))")
ROOTS = {"√": "", "∛": "[3]", "∜": "[4]"}
SMALL = re.compile("([⁰¹²³⁴⁵⁶⁷⁸⁹]+)[⁄/]([₀₁₂₃₄₅₆₇₈₉]+)")  # ³⁄₄
VULGAR = re.compile("(?:(?<![0-9])([0-9]{1,9})[ \u00a0]?)?([¼-¾⅐-⅞])")  # ½ and its like, and what may stand before them
NEGATIVE = re.compile(r"(?<![\d)}\]])(?<![\d)}\]]\s)–(?=[\d.])")  # an en dash that is no range

# Numbers
MIXED = re.compile(r"(?<![\d.,/^])(\d{1,6})\s+(\d{1,6})\s?/\s?(\d{1,6})(?![\d/])")
SCIENTIFIC = re.compile(r"(?<![\w.\\])(\d{1,30}(?:\.\d{1,30})?)[eE]([+-]?\d{1,9})(?![\w.]*\w)")
NEGATIVE_POWER = re.compile(r"\^-(\d{1,9})(?!\d)")
TIMES_TEN = re.compile(r"(?<=\d)\s*[xX]\s*10\s*(?=\^)")
BRACED_COMMA = re.compile(r"(?<=\d)(?:\{,\}|,\\!)\s*(?=\d{3}(?!\d))")


def plain(text: str) -> str:
    """``text`` in ASCII as far as mathematics goes: digits, signs, powers, roots, fractions, 3.2e5 as 3.2*10^(5)."""
    if not text.isascii():
        text = VULGAR.sub(_fraction, NEGATIVE.sub("-", text))
        text = SMALL.sub(lambda found: f"{found[1].translate(RAISED)}/{found[2].translate(LOWERED)}", text)
        text = ROOT.sub(_root, text)
        text = POWER.sub(lambda run: _script("^", run[0].translate(RAISED)), text)
        text = INDEX.sub(lambda run: "_{" + run[0].translate(LOWERED) + "}", text)
        text = _overlined(text)
        text = unicodedata.normalize("NFKC", text.translate(CHARACTERS)).translate(CHARACTERS)
    text = BRACED_COMMA.sub(",", text)
    text = NEGATIVE_POWER.sub(r"^(-\1)", TIMES_TEN.sub("*10", SCIENTIFIC.sub(r"\1*10^(\2)", text)))
    return MIXED.sub(_mixed, text)


def _script(sign: str, text: str) -> str:
    return sign + (text if len(text) == 1 else f"({text})")


def _root(found: re.Match[str]) -> str:
    degree = ROOTS.get(found[1], f"[{found[1][0].translate(RAISED)}]")
    return rf"\sqrt{degree}{{{found[2] or found[3]}}}"


def _fraction(found: re.Match[str]) -> str:
    return str(int(found[1] or 0) + Fraction(unicodedata.numeric(found[2])).limit_denominator(10))


def _mixed(found: re.Match[str]) -> str:
    """2 1/2 -> 5/2"""
    whole, top, bottom = map(int, found.groups())
    return f"{whole * bottom + top}/{bottom}" if top < bottom else found[0]


def _overlined(text: str) -> str:
    """Digits under a combining macron or overline, as \\overline writes them."""
    return re.sub("((?:\\d[\u0304\u0305])+)", lambda run: "\\overline{" + re.sub("\\D", "", run[0]) + "}", text)


# One answer

NUMBER = r"[-+]?(?:[1-9]\d{0,2}(?:,\d{2,3})*,\d{3}(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
SPACE = re.compile(r"(?<!\\)\\[,;:> ]|~|(?<!\\)\\(?:quad|qquad|thinspace|space)(?![a-zA-Z])|\\hspace\*?\{[^{}]*\}|\s+")
LAYOUT = re.compile(
    r"(?<!\\)\\!|\\(?:blacksquare|checkmark)(?![a-zA-Z])|\\(?:textcolor|colorbox|color)(?:\[[^\]]{0,40}\])?\s*\{[^{}]*\}"
    r"|\\(?:displaystyle|textstyle|bf|bfseries|it|rm|sf|tt|tiny|small|large|Large|LARGE|huge|Huge)(?![a-zA-Z])"
)
FONT = re.compile(
    r"(?P<font>\\(?:textbf|mathbf|boldsymbol|bm|pmb|underline|textit|emph|mathsf|texttt|ensuremath|fbox|boxed)\s*\{)"
    r"|\\.|[{}]|[^\\{}]+",
    re.DOTALL,
)
WORDS = re.compile(r"\\(?:text|mbox|textrm|textnormal|mathrm|operatorname)\s*\{([^{}]*)\}")
CURRENCY = re.compile(
    r"\\?\$|[€£¥₹₽₩₪₫₺₱฿]|\\(?:pounds|euro|yen)(?![a-zA-Z])"
    r"|(?<![a-zA-Z\\])(?:USD|EUR|GBP|INR|CNY|RMB|JPY|CAD|AUD|CHF|US(?=\s*\\?\$)|Rs\.?)(?![a-zA-Z])"
)
DEGREES = re.compile(r"([^a-zA-Z\\]*[\d)}])\s*\^?\s*\{?\s*\\circ\s*\}?\s*(?:\\text\{ *[CF] *\}|[CF])?")
ANNOUNCED = re.compile(
    r"(?:the\s+)?(?:final\s+|correct\s+)?(?:answer|result|ans)\s*(?:is|:|=)?\s*:?\s*(?=\S)|(?-i:A):\s+(?=\S)"
    r"|(?:\\approx|\\therefore|\\implies|\\Rightarrow|=|approximately\s|about\s|roughly\s)\s*(?=\S)",
    re.IGNORECASE,
)
ROWS = re.compile(
    r"\\(?:begin|end)\{(?:aligned|gathered|split|align\*?|equation\*?)\}|\\begin\{array\}\{[lcr| ]*\}|\\end\{array\}"
)
THOUSANDS = re.compile(r"(?<![\d.,'_])(?<!\d )\d{1,3}(?P<sign>[ '_])\d{3}(?:(?P=sign)\d{3})*(?![\d'_]| \d)")
PERIOD = re.compile(r"(?<![\d.])(\d{0,15})\.(\d{0,15})(?:\\(?:overline|bar|overbar)\s*\{(\d{1,15})\}|\((\d{1,15})\))")
DOTTED = re.compile(r"(?<![\d.])(\d{0,15})\.(\d{0,15})\\dot\s*\{?(\d)\}?(?:(\d{0,15})\\dot\s*\{?(\d)\}?)?")
ELLIPSIS = re.compile(r"(?<![\d.])(\d{0,15})\.(\d{0,6}?)(\d{1,6}?)\3{2,5}\d{0,5}(?:\.{3}|\\[lc]?dots)")
QUANTITY = re.compile(rf"((?:[a-zA-Z]\w?\s*=\s*)?{NUMBER})(\s*)((?:[^\W\d_]|\()(?:[^\W\d_]|[ .,/()-]|\^\{{?-?\d\}}?)*)")
UNIT = re.compile(r"\s*\\text\{([^{}^]*)(?:\^\{?(\d)\}?)?\}(?:\^\{?(\d)\}?)?\Z")
SEVERAL = re.compile(r"[-+\d., ]*\d +[-+]?\d[-+\d., ]*")
SHORT_UNITS = frozenset("mm cm dm km kg mg lb lbs oz ft yd mi in hr hrs sq cu mL ml kW kJ kN Hz mph kph kmh".split())
SIZES = {  # units that must not be taken for one another, and their names
    name: names.split()[0]
    for names in (
        "mm millimeter millimetre", "cm centimeter centimetre", "m meter metre", "km kilometer kilometre",
        "in inch inche", "ft foot feet", "yd yard", "mi mile", "mg milligram", "g gram", "kg kilogram",
        "s second sec", "min minute", "h hour hr", "day", "week", "month", "year", "cent", "dollar",
    )
    for name in names.split()
}  # fmt: skip
NO_UNITS = frozenset(  # words that change a number, or join two
    "and or not to of times plus minus over sin cos tan cot sec csc log ln exp sqrt root mod inf infinity pi choose "
    "factorial squared cubed half halves third thirds quarter quarters percent percentage pct score dozen hundred "
    "thousand million billion trillion lakh crore am pm is are if where for when".split()
)


def bare(answer: str) -> str:
    """One answer without what does not belong to its value; ``answer`` is already :func:`plain`.

    Words come to stand in a \\text{}; behind a number math-verify takes them for its unit. Several numbers with only
    blanks between them are no answer: then nothing is left.
    """
    text = SPACE.sub(" ", LAYOUT.sub("", _rows_as_list(answer)))
    for pattern in (PERIOD, DOTTED, ELLIPSIS):
        text = pattern.sub(_repeating, text)
    text = CURRENCY.sub("", WORDS.sub(_words, _without_fonts(text)))
    text = _stripped(text)
    text = _stripped(text[announced.end() :] if (announced := ANNOUNCED.match(text)) else text)
    text = found[1] if (found := DEGREES.fullmatch(text)) else text
    text = THOUSANDS.sub(lambda found: re.sub("[ '_]", "", found[0]), text)
    if (found := QUANTITY.fullmatch(text)) and _is_unit(found[3], spaced=found[2] != ""):
        return rf"{found[1]}\text{{ {found[3]}}}"
    if re.fullmatch(NUMBER, text):
        return text.replace(",", "")
    return "" if SEVERAL.fullmatch(text) else text


def without_unit(answer: str) -> str:
    """A :func:`bare` answer without the words behind it; words alone stay."""
    return UNIT.sub("", answer) or answer


def other_unit(answer: str, gold: str) -> bool:
    """Do two bare answers name different units of SIZES, or different powers of one?"""
    units = [UNIT.search(text) for text in (answer, gold)]
    if None in units:
        return False
    powers = [unit[2] or unit[3] for unit in units]
    names = [unit[1].strip(" .").lower() for unit in units]
    sizes = [SIZES.get(name) or SIZES.get(name.removesuffix("s")) for name in names]
    return None not in sizes and sizes[0] != sizes[1] or None not in powers and powers[0] != powers[1]


def other_brackets(answer: str, gold: str) -> bool:
    """Is one a set in braces, and the other a pair or an open interval in parentheses?"""
    kinds = {
        "set" if re.fullmatch(r"\\left\\\{.*|\\\{.*", text) else text[:1] for text in (answer, gold) if "," in text
    }
    return kinds == {"set", "("}


def squeezed(answer: str) -> str:
    """What is left of an answer when two are compared letter by letter: "9:30\\text{ a.m.}" and "9:30 AM" are alike."""
    text = re.sub(r"\\(?:text|mbox|mathrm|textbf|left|right)(?![a-zA-Z])|[\s{}$]|\\[ ,;:!]|(?<=[a-zA-Z])\.", "", answer)
    return text.lower() if re.search("[a-zA-Z]{2}", text) else text


def _rows_as_list(text: str) -> str:
    """The rows of an aligned environment, separated by commas. Those of a matrix stay rows."""
    return ROWS.sub("", text).replace("&", "").replace(r"\\", ",") if ROWS.search(text) else text


def _without_fonts(text: str) -> str:
    """\\textbf{x} -> x; its braces stay where an exponent or index needs them."""
    out: list[str] = []
    ends: list[str] = []  # what closes each open brace
    for token in FONT.finditer(text):
        if token["font"] or token[0] == "{":
            kept = not token["font"] or (out and out[-1].rstrip().endswith(("^", "_")))
            out.append("{" if kept else "")
            ends.append("}" if kept else "")
        elif token[0] == "}":
            out.append(ends.pop() if ends else "}")
        else:
            out.append(token[0])
    return "".join(out)


def _words(found: re.Match[str]) -> str:
    """The words of a \\text{}: a number with its unit, a letter and an announcement come out of it."""
    inside = found[1].strip()
    if re.match(rf"\\?\$?{NUMBER}", inside) or inside in ("e", "i") or ANNOUNCED.match(f"{inside} x"):
        return found[1]
    return rf"\text{{{found[1]}}}"


def _stripped(text: str) -> str:
    """Without blanks, dollars and braces around it, and without the full stop of its sentence."""
    while True:
        shorter = text.strip().rstrip(".,;:? ").removesuffix(" !")
        shorter = shorter.removeprefix(r"\(").removesuffix(r"\)").removeprefix(r"\[").removesuffix(r"\]")
        if re.fullmatch(r"\{[^{}]*\}", shorter):
            shorter = shorter[1:-1]
        if shorter == text:
            return text
        text = shorter


def _repeating(found: re.Match[str]) -> str:
    """A repeating decimal as the fraction that it is."""
    whole, fixed, *period = found.groups()
    period = "".join(part or "" for part in period)
    shift, nines = 10 ** len(fixed), 10 ** len(period) - 1
    value = Fraction(int(fixed or 0) * nines + int(period), shift * nines) + int(whole or 0)
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _is_unit(text: str, spaced: bool) -> bool:
    """Are these words a unit, or what is counted ("18 eggs", "5cm", "3 m/s")? Letters may be variables ("3x")."""
    words = re.findall(r"[^\W\d_]+", text)
    if any(word.lower() in NO_UNITS for word in words):
        return False
    return all(word in SHORT_UNITS or (len(word) > 2 and spaced) or "/" in text or not word.isascii() for word in words)
