"""What mkdocs calls while it makes the site: documents of the root become pages, and code is linked.

Documents link one another, and code, by paths in the repository, so that a forge shows them too.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"]
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the documents of the root; the README is the first page."""
    for name in PAGES:
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Lead links by paths to pages of the site, else to the repository, if it has an address.

    Raises:
        FileNotFoundError: a link leads to nothing in the repository.
    """
    name = page.file.src_uri
    folder = "" if name in PAGES else "docs"

    def moved(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        path = posixpath.normpath(posixpath.join(folder, target))
        if path in PAGES or (
            path.startswith("docs/") and files.get_file_from_path(path.removeprefix("docs/"))
        ):
            return f"[{text}]({path.removeprefix('docs/')}{anchor})"
        if not (ROOT / path).exists():
            raise FileNotFoundError(f"{name} links to {target}")
        return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{path})" if config.repo_url else text

    return _LINK.sub(moved, markdown)
