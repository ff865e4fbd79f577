"""Pages that commands write: sections in their place, lines that a person can read."""

from maskgit_export.card import put_section, wrapped

TEXT = """# A heading is as long as it is, whatever its words

Words words words words words
and more of them; a number at the end of a line, 7
- an item with several words in it that goes on
  in a second line
  - one inside it that is long enough to be wrapped too
1. numbered, and this one is long enough for two lines

| a table | is | as wide | as it must be | whatever that is |
|---|---|---|---|---|

    code stays as it is, as long as it may be, of course

```
so does this code, which is fenced, with more words than fit
```

![A picture of something](path/that/is/quite/long/and/has/no/spaces.png)"""

WRAPPED = """# A heading is as long as it is, whatever its words

Words words words words words and more
of them; a number at the end of a line,
7
- an item with several words in it that
  goes on in a second line
  - one inside it that is long enough to
    be wrapped too
1. numbered, and this one is long enough
   for two lines

| a table | is | as wide | as it must be | whatever that is |
|---|---|---|---|---|

    code stays as it is, as long as it may be, of course

```
so does this code, which is fenced, with more words than fit
```

![A picture of something](path/that/is/quite/long/and/has/no/spaces.png)"""


def test_prose_is_wrapped_and_all_else_stays():
    assert wrapped(TEXT, 40) == WRAPPED
    assert wrapped(WRAPPED, 40) == WRAPPED


def test_no_line_begins_with_what_would_be_a_list():
    for width in range(10, 40):
        lines = wrapped("ten plus 2 - 1 is 11. that # and * more + 3 > 2 make 12) of these", width).split("\n")
        assert not any(line[0] in "-#*+>" or line.startswith(("11. ", "12) ")) for line in lines), lines


def test_a_section_is_wrapped_and_the_rest_is_its_authors(tmp_path):
    page, long = tmp_path / "page.md", "word " * 60
    page.write_text(f"# Page\n\n{long}\n\n## How it was made\n\nend\n")
    for text in ("old", long):
        put_section(page, "part", f"## Part\n\n{text}", before="## How it was made")
    lines = page.read_text().split("\n")
    assert lines.count("<!-- part -->") == 1 and lines.index("<!-- /part -->") < lines.index("## How it was made")
    inside = lines[lines.index("<!-- part -->") : lines.index("<!-- /part -->")]
    assert len(inside) > 3 and max(map(len, inside)) <= 120 and long in page.read_text().split("<!--")[0]


def test_short_code_is_not_torn_apart():
    assert wrapped("some words and then `a piece of code` goes on", 30).split("\n") == [
        "some words and then",
        "`a piece of code` goes on",
    ]
