"""The Chinese pages have in each section what the English ones have: numbers, code, tables, blocks, links, paragraphs.

A sentence that changes without any of these is for the author of the change to translate.
"""

import re
from collections import Counter
from itertools import zip_longest
from pathlib import Path

import pytest
from helpers import anchors

ROOT = Path(__file__).parent.parent
PAGES = {"README.md": "README.zh-CN.md", "MAPPING.md": "MAPPING.zh-CN.md"}

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r" *# .*")
ROW = re.compile(r"^\|.*\|$", re.MULTILINE)
CODE = re.compile(r"`[^`]+`")
LINK = re.compile(r"(?<=\])\(([^)#]*)#?([^)]*)\)")
HAN = "[\u4e00-\u9fff]"
SCALES = {"": 1, "million": 10**6, "万": 10**4, "亿": 10**8}


def _text(page):
    return (ROOT / page).read_text(encoding="utf-8")


def _sections(page):
    """Return the level and the title of each heading, and what stands below it."""
    _, *parts = re.split(r"^(#+) (.*)\n(?=\n)", _text(page), flags=re.MULTILINE)
    return list(zip(parts[::3], parts[1::3], parts[2::3], strict=True))


def _code_and_numbers(text):
    """List the inline code and the numbers of a text without blocks, as in B12 too; 1.2 亿 is 120 million."""
    text = LINK.sub("", text)
    numbers = re.findall(rf"([A-Za-z]*\d+(?:[,.]\d+)*) ?({'|'.join(SCALES)[1:]}|)", CODE.sub("", text))
    scaled = [f"{float(number) * SCALES[scale]:.0f}" if scale else number for number, scale in numbers]
    return [" ".join(code.split()) for code in CODE.findall(text)] + scaled


def _links(text, page):
    """List where the links of a text lead, as those of the English page are written."""
    english = {chinese: page for page, chinese in PAGES.items()}
    for file, anchor in LINK.findall(text):
        target = file or page
        if anchor and target in english:
            both = dict(zip(anchors(_text(target)), anchors(_text(english[target])), strict=False))
            anchor = both.get(anchor, f"{anchor}, which {target} does not have")
        yield f"{english.get(target, target)}#{anchor}".rstrip("#")


def _contents(title, body, page):
    """Count all that a section has in any language, by what a failure calls it."""
    blocks = BLOCK.findall(body)
    comments = [comment for _, block in blocks for comment in COMMENT.findall(block)]
    text = BLOCK.sub("", body)
    prose = [title, *(part for part in ROW.sub("", text).split("\n\n") if part.strip())]
    cells = [re.split(r"(?<!\\)\|", row)[1:-1] for row in ROW.findall(text)]
    return Counter(
        [
            *(f"a block of {kind}:\n{COMMENT.sub(' # ...', block)}" for kind, block in blocks),
            *(f"a row: | {' | '.join(' '.join(sorted(_code_and_numbers(cell))) for cell in row)} |" for row in cells),
            *(part for piece in prose + comments for part in _code_and_numbers(piece)),
            *(f"a link to {target}" for target in _links(text, page)),
            *("an item of a list" if line.startswith("- ") else "a paragraph" for line in _beginnings(prose)),
        ]
    )


def _beginnings(prose):
    """List the beginning of each paragraph, and of each item of a list."""
    return [line for part in prose for line in re.split(r"\n(?=- )", part.strip())]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_the_same_sections_in_both_languages(page):
    english, chinese = _sections(page), _sections(PAGES[page])
    headings = [" ".join(heading[:2] + other[:2]) for heading, other in zip_longest(english, chinese, fillvalue="--")]
    assert [level for level, *_ in chinese] == [level for level, *_ in english], "\n".join(headings)
    differences = []
    for (_, title, body), (_, chinese_title, chinese_body) in zip(english, chinese, strict=True):
        wanted = _contents(title, body, page)
        found = _contents(chinese_title, chinese_body, PAGES[page])
        for what, things in (("lacks", wanted - found), ("has too much", found - wanted)):
            differences += [f"{PAGES[page]}, {chinese_title} ({title}), {what}: {thing}" for thing in things.elements()]
    assert not differences, "\n".join(differences)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_leads_to_the_other_language_at_its_top(page):
    assert _text(page).splitlines()[2] == f"[中文]({PAGES[page]})"
    assert _text(PAGES[page]).splitlines()[2] == f"[English]({page})"


@pytest.mark.parametrize("page", PAGES.values())
@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(r"[a-z]+(?: [a-z]+){3}", id="English"),
        pytest.param(rf"{HAN}[,:;?!(]|[,:;?!)]{HAN}", id="half-width punctuation"),
        pytest.param(rf"{HAN}[A-Za-z0-9`]|[A-Za-z0-9`]{HAN}", id="no space between Chinese and Latin"),
    ],
)
def test_chinese_is_written_as_it_should_be(page, wrong):
    text = LINK.sub("", BLOCK.sub(lambda block: "\n".join(COMMENT.findall(block[2])), _text(page)))
    found = [match[0] for match in re.finditer(rf".{{,12}}(?:{wrong}).{{,12}}", CODE.sub("`…`", text))]
    assert found == []
