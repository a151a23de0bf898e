"""The README's code runs as it is printed, and it and the pages of measurements name what there is."""

import re
import shlex
from pathlib import Path

import pytest
from absl.testing import flagsaver

from causal_ctx import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "tests" / "benchmarks").glob("*.md"))]


def commands(text: str) -> set[str]:
    """The flags of every command that `text` prints, in one line each, with the values of the variables that it sets."""
    for name, value in re.findall(r'^ *([A-Z]+)="(.*)"$', text, re.MULTILINE):
        text = text.replace(f"${name}", value)
    lines = re.findall(r"\./launch/(?:local|gpu)\.sh +(--[^`\n]*)", text.replace("\\\n", " "))
    return {" ".join(shlex.split(line, comments=True)) for line in lines}


COMMANDS = sorted(set().union(*(commands(page.read_text()) for page in [*PAGES, *(ROOT / "configs").rglob("*.py")])))


def test_the_module_in_an_own_model():
    code = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "class MyDecoder" in block)
    names: dict = {}
    exec(code, names)
    assert names["images"].shape == (8, 16, 28, 28)
    assert not (names["images"][0] == names["images"][1]).all()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_every_heading_that_a_page_names_exists(page):
    text = page.read_text()
    for name in re.findall(r"(?:causal_ctx|configs|launch|tests)/[\w/]+\.(?:py|sh|png|md)", text):
        assert (ROOT / name).exists(), name
    for name, heading in re.findall(r"\]\((?!https?:|runs/)([^)#]*)(?:#([^)]*))?\)", text):
        linked = page.parent / name if name else page
        assert linked.exists(), name
        if heading:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in headings}, heading


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_figure_is_left_to_fill_in(page):
    assert not re.findall(r"\b[A-Z]+_[A-Z_]+\b", re.sub(r"`[^`\n]+`", "", page.read_text()))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_describes_a_run(command, monkeypatch):
    """Its flags are known, its config valid, and a workdir is named where one is needed."""
    argv = ["causal_ctx", *command.split()]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", argv)  # where the flag --config looks for fields
    with flagsaver.flagsaver():
        main.parse(argv)
        mode, config = main.asked_for()
        assert main.WORKDIR.value or main.PRINT_CONFIG.value or mode == "reproduce" or mode in main.WITHOUT_WORKDIR
        assert config is not None or mode in main.WITHOUT_CONFIG
