from __future__ import annotations

import pytest

from tools import check_docs_links as checker


@pytest.fixture
def problems(tmp_path):
    """A function that writes files into an empty repository with a README and gives what is wrong with them."""

    def run(**files):
        (tmp_path / "README.md").write_text("# Title\n")
        (tmp_path / "docs").mkdir(exist_ok=True)
        for name, text in files.items():
            (tmp_path / name.replace("__", "/").replace("_md", ".md")).write_text(text)
        return checker.problems(tmp_path)

    return run


def test_links_to_files_folders_and_headings_are_good(problems):
    text = "# One & two\n## Same\n## Same\n[a](../README.md#title) [b](#one--two) [c](#same-1) [d](/docs) [e](<b.md>)\n"
    assert problems(docs__a_md=text, docs__b_md="") == []


@pytest.mark.parametrize(
    "link",
    ["[a](no.md)", "[a](b.md#no)", "[a](#no)", "![a](no.png)", '[a](no.md "title")', "[a]: no.md", "[a](/no.md)"],
)
def test_links_to_nothing_are_reported(problems, link):
    assert len(problems(docs__a_md=link + "\n", docs__b_md="# Yes\n")) == 1


@pytest.mark.parametrize(
    "text", ["`[a](no.md)`", "```\n[a](no.md)\n```", "[a](https://example.org/no.md)", "[a](mailto:a@example.org)"]
)
def test_code_and_addresses_are_not_links(problems, text):
    assert problems(docs__a_md=text + "\n") == []


def test_headings_within_code_are_no_anchors(problems):
    assert len(problems(docs__a_md="```\n# Not this\n```\n[a](#not-this)\n")) == 1


@pytest.mark.parametrize(
    "text",
    ["`docs/no.md`", "run `cat docs/no.txt`", "```\npython docs/no.py\n```", "see CHANGES.md", "(docs/no/x.py)."],
)
def test_files_the_readme_names_must_exist(problems, text):
    assert len(problems(README_md=text + "\n")) == 1


@pytest.mark.parametrize(
    "text", ["see `docs/a.md`.", "owner/name", "s3://docs/no.md", "`model.pth`", "`torch.load`", "a/docs/b"]
)
def test_other_words_of_the_readme_are_left_alone(problems, text):
    assert problems(README_md=text + "\n", docs__a_md="") == []


def test_a_repository_without_readme_is_a_problem(tmp_path):
    assert checker.problems(tmp_path) == ["README.md: no such file"]


def test_main_gives_the_exit_code(problems, tmp_path, capsys):
    problems()
    assert checker.main([str(tmp_path)]) == 0
    problems(docs__a_md="[a](no.md)\n")
    assert checker.main([str(tmp_path)]) == 1
    assert "no such file" in capsys.readouterr().err
