"""How what a run printed is compared with what a document states."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import differences, runnable, shows

DOCUMENT = """\
```console
$ not marked
```

<!-- run -->
```console
$ one \\
  --more    # a comment
said
$ two
```

<!-- run -->
```python
import this
```

<!-- file: facts.csv -->
```text
prompt,subject
```

<!-- run: vllm -->
```console
$ serve --model "a & b" &  # goes on
...
ready, 5 s after the start
```
"""


def test_commands_of_marked_blocks_are_found_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(DOCUMENT, encoding="utf-8")
    first, second, third, fourth = runnable(path)
    assert (first.line, first.command, first.printed) == (7, "one \\\n  --more    # a comment", ("said",))
    assert (second.line, second.command, second.printed) == (10, "two", ())
    assert (third.language, third.command) == ("python", "import this\n")
    assert (fourth.language, fourth.command, fourth.text) == ("file", "facts.csv", "prompt,subject\n")


@pytest.mark.parametrize(
    ("stated", "printed"),
    [
        ("built in 3.4 s", "built in 74.2 s"),
        ("│ 97.5 │ a │\n└────┘", "┃ 97.6 ┃  a  ┃\n"),
        ("...\nlast", "first\nsecond\nlast"),
        ('{"id":1, ...', '{"id":1, "more": 2}'),
        ("first\n...", "first\nsecond\nthird"),
        ("sha256:12ab", "sha256:34cd"),
    ],
)
def test_what_may_differ_does_not_count(stated: str, printed: str) -> None:
    assert differences(tuple(stated.splitlines()), printed) == ""


@pytest.mark.parametrize(
    ("stated", "printed"),
    [
        ("layer 2", "layer 3"),
        ("97.5", "77.5"),
        ("word", "words"),
        ("first\nthird", "first\nsecond\nthird"),
        ("first", "first\nsecond"),
        ("first\nsecond", "first"),
        ("...\nlast", "first\nsecond"),
    ],
)
def test_what_must_be_equal_is_compared(stated: str, printed: str) -> None:
    assert differences(tuple(stated.splitlines()), printed)


def test_blocks_for_vllm_are_left_out_without_it_and_may_go_on_in_the_background(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(DOCUMENT, encoding="utf-8")
    *others, served = runnable(path, vllm=True)
    assert others == runnable(path)
    assert not any(step.in_background for step in others)
    assert served.in_background
    assert served.foreground == 'serve --model "a & b"'
    assert not shows(served.printed, "starting\n")
    assert shows(served.printed, "starting\nINFO: ready, 34 s after the start (3)\n")
