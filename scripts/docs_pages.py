"""Hook of MkDocs: README, CONTRIBUTING and CHANGELOG become pages, and links of all pages lead to what the site has.

The pages are written for a code host, where a link may name any file or folder of the checkout.  On the site a link to
a page's source leads to that page, one to a folder to its README; what is not on the site is named, not linked.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
SOURCES = {page: source for source, page in PAGES.items()}
LINK = re.compile(r"\[([^][]*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")  # text, path, anchor; not a URL
LOADED = re.compile(r"<(?:script|img|iframe|source|link)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages whose source lies beside docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Return the page with links that lead to pages of the site."""
    here = page.file.src_uri
    folder = posixpath.dirname(SOURCES.get(here, f"docs/{here}"))

    def on_site(link: re.Match[str]) -> str:
        text, path, anchor = link.groups(default="")
        target = posixpath.normpath(posixpath.join(folder, path))
        if (ROOT / target / "README.md").is_file():
            target += "/README.md"
        uri = PAGES.get(target, target.removeprefix("docs/"))
        if files.get_file_from_path(uri):
            return f"[{text}]({posixpath.relpath(uri, posixpath.dirname(here) or '.')}{anchor})"
        if not (ROOT / target).exists():
            return link[0]  # MkDocs says that it is dead
        return f"`{target}`" if text.strip("`") == target else f"{text} (`{target}`)"

    return LINK.sub(on_site, markdown)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Return the page as it is.  Raises PluginError where a browser would load something from another host."""
    if foreign := LOADED.search(output):
        raise PluginError(f"{page.file.src_uri} loads from another host: {foreign[0]}")
    return output
