import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
def test_the_python_of_the_readme_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) >= 3
    names = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    sigmas = names["house"].uncertainty.sigmas
    assert sigmas["price"] == pytest.approx(20_000, rel=0.25)  # what the comment there says
    assert str(sigmas) in capsys.readouterr().out
    assert names["weighting"].steps == 32


def test_the_options_in_the_readme_exist():
    from lightning_uncertainty import UncertaintyCallback

    UncertaintyCallback(freeze_after=10_000, nonfinite="raise", min_variance_ratio=1e-4, warmup_steps=500)
