"""First lines of docstrings stand alone: ``python -m tests.docstrings`` says where one does not."""

import pytest

from tests.docstrings import ROOT, docstrings, is_fragment, main

SENTENCES = (
    "Return the mean of all values.",
    "Step the weights if an optimizer has stepped, and log.",
    "A callback that learns weights.",
    "A snapshot of all tasks. Costs one transfer to the host.",
    "Mean of the gains over the seeds, in percent.",
    "The factor before the loss, ``c exp(-r s)``.",
    "``R(s)``.",
    ":class:`Task` with its defaults.",
    "Train.",
    "Add a point.",
    "Apply the weights.",
    "Reply to a call.",
    "Rely on the order.",
    "Multiply by two.",
    "Linearly interpolate the values.",
    "Empty folder of a run that begins.",
    "Fixed weight of each task.",
    "This rank writes.",
    "Keys of the logged values:",
    'Say "done."',
    "Does it help me?",
    "517 is 5:17.",
)
FRAGMENTS = (
    "What a run leaves.",
    "Whether it is open.",
    "Which losses there are.",
    "How far it is.",
    "Whose engine it is.",
    "Of the runs.",
    "Over the seeds.",
    "As it stands in the file.",
    "By task.",
    "Under which the weights stand.",
    "With `name`, another.",
    "Within, seed as you like.",
    "If it is open.",
    "Those of the user.",
    "That of the innermost module.",
    "All there is to know.",
    "It is done.",
    "Its code.",
    "There is one.",
    "Evenly, the first and the last among them.",
    "Now and then.",
    "Flat, for a logger.",
    "Unique per module.",
    "Stable, and unique.",
    "...to here; learn.",
    "Losses count from here...",
    "A list of",
    "The first, the second,",
    "",
)


@pytest.mark.parametrize("line", SENTENCES)
def test_a_line_that_stands_alone_is_accepted(line):
    assert not is_fragment(line)


@pytest.mark.parametrize("line", FRAGMENTS)
def test_a_fragment_is_found(line):
    assert is_fragment(line)


def test_every_docstring_is_counted_and_each_fragment_is_printed_with_its_place(tmp_path, capsys):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "one.py").write_text(
        '"""A module."""\n\n\nclass _Two:\n    """Of the runs.\n\n    Attributes:\n        a: of it.\n'
        '        b: Sum\n            of: all.\n\n    Raises:\n        ValueError: of it.\n    """\n\n'
        '    async def three(self):\n        """\n        Return it.\n        """\n\n'
        '        def four():\n            """What it is."""\n\n'
        "    def five(self): ...\n"
    )
    (tmp_path / "none.py").write_text("")
    assert sorted(place.name for place in docstrings(tmp_path)) == ["_Two", "four", "one", "three"]
    main(tmp_path)
    assert capsys.readouterr().out.splitlines() == [
        "inner/one.py:4: _Two: Of the runs.",
        "inner/one.py:21: four: What it is.",
        "2 of 4 docstrings start with a fragment: 50.0 %.",
        "inner/one.py:4: _Two: a: of it.",
        "1 of 2 entries start with a fragment: 50.0 %.",
    ]


def test_at_most_5_percent_of_the_packages_docstrings_start_with_a_fragment():
    places = [*docstrings(ROOT / "lightning_uncertainty")]
    fragments = [f"{place.path}:{place.line}: {place.first_line}" for place in places if is_fragment(place.first_line)]
    assert len(places) > 300
    assert len(fragments) <= 0.05 * len(places), "\n".join(fragments)
