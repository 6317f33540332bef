"""What the site does to a page: links that leave docs/ lead to the repository, where those files are."""

import posixpath
import re
from typing import Any


def on_page_markdown(markdown: str, page: Any, config: Any, **rest: Any) -> str:
    """The text of a page; mkdocs calls this."""
    folder = posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def leading(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, link[1]))
        return link[0] if path.startswith("docs/") else f"]({config.repo_url}/blob/main/{path})"

    return re.sub(r"\]\((\.\./[^)#]*)\)", leading, markdown)
