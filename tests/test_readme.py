"""The README's code runs as it is printed."""

import re
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_module_in_an_own_model():
    code = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "class MyDecoder" in block)
    names: dict = {}
    exec(code, names)
    assert names["images"].shape == (8, 16, 28, 28)
    assert not (names["images"][0] == names["images"][1]).all()


def test_every_file_that_it_names_exists():
    root = Path(__file__).parent.parent
    for name in re.findall(r"(?:causal_ctx|configs|launch|tests)/[\w/]+\.(?:py|sh|png)", README):
        assert (root / name).exists(), name


def test_no_figure_is_left_to_fill_in():
    assert not re.findall(r"\b[A-Z]+_[A-Z_]+\b", re.sub(r"`[^`\n]+`", "", README))
