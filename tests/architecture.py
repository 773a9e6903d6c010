"""Draw architecture.svg: one iteration of the method, and the modules and packages by layer with their imports.

    python -m tests.architecture

The layers are those of the import contract in pyproject.toml, the files and the imports those of psn_tutorial/. Drawn
are only the imports that no chain of others implies, and none of the lowest layer, which every module may use.
"""

import ast
import textwrap
import tomllib
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, PICTURE = ROOT / "psn_tutorial", ROOT / "architecture.svg"

# One iteration in the words of trainer.py, and for each step the modules that do it.
ITERATION = (
    ("problems -> prompts", ("tasks",)),
    ("[clean policy + noise draws]", ("carriers", "noise")),
    ("rollouts with the sampler's log-probs", ("rollout",)),
    ("verifier -> rewards", ("tasks",)),
    ("group advantages", ("advantages",)),
    ("clean log-probs", ("rollout",)),
    ("truncated importance weights", ("importance",)),
    ("clipped loss", ("losses",)),
    ("optimiser step on the clean policy", ("trainer",)),
    ("signals", ("signals",)),
    ("scheduler -> next sigma", ("schedulers",)),
)

# What each box says, and its left and right edge. Its row is the layer that pyproject.toml gives it.
BOXES = {
    "teaching": ("exact policies, exercises, the index of paper and code", 30, 330),
    "cli": ("the command psn-tutorial, one file per subcommand", 350, 730),
    "integrations": ("the noise in TRL's GRPOTrainer", 750, 970),
    "reporting": ("tables, figures, the page of a comparison, README's results", 430, 970),
    "experiments": ("arms and seeds, and what came of them", 350, 650),
    "preflight": ("what fits, and what would go wrong", 670, 970),
    "jobs": ("training, pre-training and evaluating; they stop and resume", 350, 970),
    "trainer": ("calls the steps above in order", 30, 330),
    "evaluation": ("pass@k, coverage, intervals, comparison at equal pass@1", 470, 970),
    "prefixes": ("random words before the prompt (LoPE)", 190, 450),
    "rollout": ("completions and their log-probs", 190, 450),
    "carriers": ("noise in or beside the weights", 170, 440),
    "config": ("all settings of a run", 460, 670),
    "importance": ("truncated weights", 30, 165),
    "losses": ("the clipped loss", 179, 307),
    "signals": ("similarity, self-certainty", 321, 449),
    "schedulers": ("sigma of the next step", 463, 603),
    "models": ("tiny Qwens, 4-bit models, forward pass", 617, 787),
    "runs": ("run folders on the disk", 801, 970),
    "advantages": ("rewards within a group", 30, 165),
    "masks": ("completion tokens", 179, 307),
    "noise": ("draws of the noise", 321, 449),
    "settings": ("dataclass to JSON and back", 463, 603),
    "tasks": ("problems, verifiers, solutions", 617, 970),
    "sites": ("which parameters get the noise", 190, 450),
    "extensions": ("classes of other packages, named in a setting", 350, 970),
    "choices": ("the words that a setting may hold", 30, 330),
    "errors": ("UserError, and the checks that raise it", 350, 650),
    "strict_json": ("JSON without NaN, no name twice", 670, 970),
}
METHOD = {name for _, names in ITERATION for name in names if (PACKAGE / f"{name}.py").exists()}

STYLE = """
svg { --page: #ffffff; --edge: #d5dae1; --ink: #1c2430; --soft: #55606f; --line: #8491a2; --step: #b3470a;
      --method: #e3effc; --methodedge: #2f74b5; --other: #f3f4f6; --otheredge: #a3adba; }
@media (prefers-color-scheme: dark) {
svg { --page: #12161c; --edge: #323a46; --ink: #e8ecf2; --soft: #a9b4c2; --line: #7b899b; --step: #f0924e;
      --method: #15304c; --methodedge: #5aa2e6; --other: #20262f; --otheredge: #566273; } }
text { fill: var(--ink); font: 13px system-ui, "Segoe UI", Helvetica, Arial, "DejaVu Sans", sans-serif; }
.title { font-size: 17px; font-weight: 600; }
.soft, .files { fill: var(--soft); }
.name, .files { font: 600 15px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.files { font-size: 12px; font-weight: 400; }
.number { fill: var(--page); font-weight: 600; text-anchor: middle; }
.badge { fill: var(--step); }
.method { fill: var(--method); stroke: var(--methodedge); }
.other { fill: var(--other); stroke: var(--otheredge); }
.import { fill: none; stroke: var(--line); stroke-width: 1.2; marker-end: url(#import); }
.step { fill: none; stroke: var(--step); stroke-width: 2; marker-end: url(#step); }
"""
CAPTION = (
    "An arrow is an import that no chain of other arrows implies; all may import the lowest layer. Blue: a file of the",
    "method, with its steps in the iteration. Grey: a package with its files, or a file that several others share.",
)
NOTE = ("trainer calls", "them in this order;", "step 11 says how", "large the noise of", "the next step 2 is.")


def layers() -> list[list[str]]:
    """The modules and packages of each layer, the highest first, as the import contract has them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (contract,) = [c for c in project["tool"]["importlinter"]["contracts"] if c["id"] == "layers"]
    return [line.split(" | ") for line in contract["layers"]]


def files() -> dict[str, list[str]]:
    """Every module and package directly below psn_tutorial/; of a package also the names inside it."""
    found = {path.stem: [] for path in PACKAGE.glob("[!_]*.py")}
    for start in PACKAGE.glob("*/__init__.py"):
        inside = {path.stem for path in start.parent.glob("[!_]*.py")}
        found[start.parent.name] = sorted(inside | {path.parent.name for path in start.parent.glob("*/__init__.py")})
    return found


def imports() -> dict[str, set[str]]:
    """Which of them each one imports, inside functions too."""
    found = {name: set() for name in files()}
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if name in found:
            found[name] |= imported(path) & found.keys() - {name}
    return found


def imported(path: Path) -> set[str]:
    """The modules and packages directly below psn_tutorial/ that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("psn_tutorial.")}


def drawn_imports() -> list[tuple[str, str]]:
    """The imports that no chain of others implies, without those of the lowest layer."""
    graph, lowest = imports(), set(layers()[-1])

    def below(name: str) -> set[str]:
        return graph[name].union(*map(below, graph[name]))

    direct = [(a, b) for a in graph for b in graph[a] - lowest]
    return sorted((a, b) for a, b in direct if not any(b in below(other) for other in graph[a]))


def words(x: float, y: float, text: str, kind: str = "plain") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(text)}</text>'


def box(
    left: float, top: float, width: float, height: float, name: str, steps: list[int], anchor: str = ""
) -> list[str]:
    """A box with the numbers of its steps and its name."""
    kind = "method" if name in METHOD else "other"
    shape = f'<rect {anchor}class="{kind}" x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}" rx="7"/>'
    out = [shape]
    for i, step in enumerate(steps):
        x = left + 18 + 24 * i
        out += [
            f'<circle class="badge" cx="{x:g}" cy="{top + 17:g}" r="10"/>',
            words(x, top + 21.5, str(step), "number"),
        ]
    return [*out, words(left + 10 + 24 * len(steps), top + 22, name + "/" * bool(files()[name]), "name")]


def iteration(top: float) -> list[str]:
    """Eleven steps in two rows; the last stands below the second, to which its sigma returns."""
    width, height, across, down = 144, 90, 159.2, 122
    places = [(30 + across * i, top) for i in range(6)] + [(30 + across * i, top + down) for i in range(5, 0, -1)]
    out = [words(36, top + down + 18 + 17 * i, line, "soft") for i, line in enumerate(NOTE)]
    for i, (text, modules) in enumerate(ITERATION):
        (x, y), (next_x, next_y) = places[i], places[(i + 1) if i < 10 else 1]
        right, below = (next_x > x) - (next_x < x), (next_y > y) - (next_y < y)
        centre = (x + width / 2, y + height / 2)
        start = (centre[0] + right * width / 2, centre[1] + below * height / 2)
        end = (start[0] + right * (across - width - 3), start[1] + below * (down - height - 3))
        out.append(f'<path class="step" d="M{start[0]:g},{start[1]:g} L{end[0]:g},{end[1]:g}"/>')
        out += box(x, y, width, height, modules[0], [i + 1])
        lines = textwrap.wrap(text.strip("[]").replace("->", "→"), 17, break_on_hyphens=False)
        out += [words(x + 10, y + 44 + 17 * j, line) for j, line in enumerate(lines)]
        if modules[1:]:
            out.append(words(x + 10, y + 44 + 17 * len(lines), f"({', '.join(modules[1:])})", "soft"))
    return out


class Row:
    """The boxes of one layer."""

    def __init__(self, names: list[str], top: float):
        self.names, self.top = sorted(names, key=lambda name: BOXES[name][1]), top
        self.lines = {name: self.text(name) for name in names}
        self.height = 34 + 17 * max(map(len, self.lines.values()))
        self.bottom = top + self.height

    def text(self, name: str) -> list[tuple[str, str]]:
        text, left, right = BOXES[name]
        room = int((right - left - 20) / 7.4)
        inside = textwrap.wrap(" ".join(files()[name]), room)
        return [(line, "plain") for line in textwrap.wrap(text, room)] + [(line, "files") for line in inside]

    def draw(self) -> list[str]:
        out = []
        for name in self.names:
            _, left, right = BOXES[name]
            steps = [i for i, (_, modules) in enumerate(ITERATION, 1) if name in modules]
            out += box(left, self.top, right - left, self.height, name, steps, f'id="{name}" ')
            out += [words(left + 10, self.top + 42 + 17 * i, *line) for i, line in enumerate(self.lines[name])]
        return out

    def gaps(self) -> list[float]:
        """Where arrows between other rows can pass."""
        edges = [6, *(edge for name in self.names for edge in BOXES[name][1:]), 994]
        pairs = list(zip(edges[::2], edges[1::2], strict=True))
        return [x for a, b in pairs for x in ([(a + b) / 2] if b - a < 40 else range(a + 12, b - 11, 6))]


def arrows(rows: list[Row]) -> list[str]:
    """The imports, from the bottom of a box to the top of another, between the boxes of the rows on the way."""
    level = {name: i for i, row in enumerate(rows) for name in row.names}
    edges, ports = drawn_imports(), {}
    for end in (0, 1):  # spread over the box in the order of the boxes at the other end
        for name in level:
            _, left, right = BOXES[name]
            mine = sorted((edge for edge in edges if edge[end] == name), key=lambda edge: sum(BOXES[edge[1 - end]][1:]))
            ports |= {(edge, end): left + (right - left) * i / (len(mine) + 1) for i, edge in enumerate(mine, 1)}
    out, taken = [], set()
    for edge in sorted(edges, key=lambda edge: (level[edge[1]] - level[edge[0]], edge)):
        first, last = (level[name] for name in edge)
        x, y, goal = ports[edge, 0], rows[first].bottom, ports[edge, 1]
        path = f"M{x:g},{y:g}"
        for i in range(first + 1, last + 1):
            ideal = x + (goal - x) / (last - i + 1)
            free = [gap for gap in rows[i].gaps() if (i, gap) not in taken] or rows[i].gaps()
            to = goal if i == last else min(free, key=lambda gap: abs(gap - ideal))
            taken.add((i, to))
            top = rows[i].top - 3 * (i == last)
            middle = (y + top) / 2
            path += f" C{x:g},{middle:g} {to:g},{middle:g} {to:g},{top:g}"
            x, y = to, rows[i].bottom
            path += f" V{y:g}" * (i < last)
        out.append(f'<path class="import" d="{path}"/>')
    return out


def picture() -> str:
    """The SVG as text; it is opaque, so that it can be read on any page, and follows the reader's dark mode."""
    rows, top = [], 378
    for names in layers():
        rows.append(Row(names, top))
        top = rows[-1].bottom + 30
    shapes = "".join(
        f'<marker id="{kind}" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="{size}" markerHeight="{size}" '
        f'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="var(--{colour})"/></marker>'
        for kind, size, colour in (("import", 6, "line"), ("step", 5, "step"))
    )
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1000 {top:g}" role="img" aria-label="psn_tutorial">',
        f"<style>{STYLE}</style><defs>{shapes}</defs>",
        f'<rect x="1" y="1" width="998" height="{top - 2:g}" rx="12" fill="var(--page)" stroke="var(--edge)"/>',
        words(30, 36, "One iteration, from problems to the next sigma", "title"),
        *iteration(52),
        words(30, 313, "The modules by layer", "title"),
        *(words(30, 335 + 18 * i, line, "soft") for i, line in enumerate(CAPTION)),
        *arrows(rows),
        *(line for row in rows for line in row.draw()),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
