import doctest
import re
from tests.processes import ROOT
PAGE = (ROOT / "docs" / "questions.md").read_text()
def test_x():
    text = "\n".join(re.findall(r"```pycon\n(.*?)```", PAGE, re.DOTALL))
    t = doctest.DocTestParser().get_doctest(text, {}, "questions.md", "questions.md", 0)
    r = doctest.DocTestRunner()
    r.run(t)
    assert r.failures == 0
