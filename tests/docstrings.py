"""Count docstrings that start with a fragment: ``python -m tests.docstrings [folder]``.

A first line has to stand alone: an editor shows it so. It is a sentence ("Return the mean."), or it names a thing ("A
snapshot of all tasks."), as in torch and torchmetrics. A fragment is told by its first word or its last sign:

- a question word or relative pronoun: "What a run leaves.", "Whether it is open.", "Which losses there are."
- a preposition or conjunction: "Of the runs.", "Over the seeds.", "As text.", "If it is open."
- a pronoun or quantifier without a noun before it: "Those of the user.", "It is done.", "All there is to know."
- an adverb: "Now and then.", "There is one."
- an adjective without its noun, or an adverb in -ly without its verb: "Flat, for a logger.", "Evenly, in order."
- it begins with a sign, or ends without a full stop: "...to here.", "A list of".

A line that opens with a preposition may be a whole sentence ("On a CPU, do nothing."). It counts as a fragment all the
same: with the verb first it is read faster, and the rule needs no grammar.

The entries of ``Args:`` and ``Attributes:`` are counted by the same first words: "seeds: Seeds of the runs." says what
the thing is, "seeds: of the runs." does not.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PREPOSITION = re.compile(
    r"""
    about|above|across|after|against|along|among|around|as|at|before|behind|below|beneath|beside|besides|between|beyond
    |by|during|except|for|from|in|inside|into|like|near|of|off|on|onto|out|outside|over|per|than|through|to|toward
    |towards|under|upon|via|with|within|without""",
    re.VERBOSE,
)
QUESTION_CONJUNCTION_PRONOUN_OR_ADVERB = re.compile(
    r"""
    how|what|whatever|when|whenever|where|wherever|whether|which|whichever|who|whoever|whom|whose|why
    |although|and|because|but|if|nor|once|or|since|so|though|unless|until|whereas|while
    |all|any|both|each|every|he|he's|it|its|it's|many|most|much|she|some|such|that|their|theirs|them|these|they|those
    |again|always|else|elsewhere|even|here|hence|just|never|not|now|often|otherwise|quite|rather|sometimes|somewhere
    |soon|then|there|there's|therefore|thus|too|very""",
    re.VERBOSE,
)
NEEDS_A_WORD = re.compile(
    r"""
    alone|bare|constant|different|empty|equal|fixed|flat|free|fresh|full|known|large|local|long|new|old|open|plain|ready
    |same|separate|short|small|sorted|stable|unique|unknown|whole
    |\w+(?<!pp|mp|ep|ip|re)ly""",
    re.VERBOSE,
)


class Place(NamedTuple):
    """A docstring and where it stands.

    Attributes:
        path: File of the docstring.
        line: Line on which its module, class or function begins.
        name: Name of the module, class or function.
        text: The docstring.
    """

    path: Path
    line: int
    name: str
    text: str

    @property
    def first_line(self) -> str:
        """First line of the docstring, "" if it is empty."""
        return self.text.partition("\n")[0]

    def entries(self) -> Iterator[str]:
        """Yield the entries of ``Args:`` and ``Attributes:`` as ``name: first line``."""
        for section in re.findall(r"^(?:Args|Attributes):\n((?: {4}.*\n?|\n)+)", self.text, re.MULTILINE):
            yield from re.findall(r"^ {4}(?! )([\w*].*)$", section, re.MULTILINE)


def is_fragment(first_line: str) -> bool:
    """Return True if the first line of a docstring does not stand alone."""
    text = first_line.strip()
    if not re.match(r"[\w`:\"'<([{$*]", text) or not re.search(r"(?<!\.\.)[.?!:][\"')`*]*$", text):
        return True
    return starts_as_fragment(text)


def starts_as_fragment(text: str) -> bool:
    """Return True if the first word of a text needs something before it."""
    word, sign, following = re.match(r"([\w']*)(\W*)([\w']*)", text.lower()).groups()
    if PREPOSITION.fullmatch(word) or QUESTION_CONJUNCTION_PRONOUN_OR_ADVERB.fullmatch(word):
        return True
    has_it = sign == " " and not re.fullmatch(f"and|or|{PREPOSITION.pattern}", following, re.VERBOSE)
    return NEEDS_A_WORD.fullmatch(word) is not None and not has_it


def docstrings(folder: Path) -> Iterator[Place]:
    """Yield all docstrings of modules, classes, functions and methods, public and private, below ``folder``."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text is not None:
                    name = getattr(node, "name", path.stem)
                    yield Place(path, getattr(node, "lineno", 1), name, text)


def main(folder: Path) -> None:
    """Print each fragment below ``folder``, their numbers and their shares."""
    places = [*docstrings(folder)]
    first_lines = [(place, place.first_line) for place in places]
    entries = [(place, entry) for place in places for entry in place.entries()]
    _show(folder, "docstrings", [is_fragment(line) for _, line in first_lines], first_lines)
    _show(folder, "entries", [starts_as_fragment(entry.partition(": ")[2]) for _, entry in entries], entries)


def _show(folder: Path, kind: str, found: list[bool], texts: list[tuple[Place, str]]) -> None:
    for place, text in (each for each, is_one in zip(texts, found, strict=True) if is_one):
        print(f"{place.path.relative_to(folder)}:{place.line}: {place.name}: {text}")
    print(f"{sum(found)} of {len(found)} {kind} start with a fragment: {100 * sum(found) / max(len(found), 1):.1f} %.")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "lightning_uncertainty")
