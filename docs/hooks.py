"""MkDocs hook: files of the repository that a page links to as `../PATH` become files of the site.

On GitHub such links work as they are. On the site there is nothing above docs/, so the files are copied to
`repository/PATH` and the links are rewritten.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

OUTSIDE = re.compile(r"(?<=\]\()\.\./([^)#\s]+)")  # the target of [text](../PATH)
FOLDER = "repository"


def on_files(files: Files, config: Any) -> Files:
    """Add every file that a page links to outside docs/."""
    root = Path(config.config_file_path).parent
    for page in list(files.documentation_pages()):
        for path in OUTSIDE.findall(page.content_string):
            uri = f"{FOLDER}/{path}"
            if (root / path).is_file() and uri not in files.src_uris:
                copy = File.generated(config, uri, abs_src_path=str(root / path), inclusion=InclusionLevel.NOT_IN_NAV)
                files.append(copy)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let the links of pages in docs/ point to the copies."""
    return markdown if page.file.src_uri.startswith(FOLDER) else OUTSIDE.sub(rf"{FOLDER}/\1", markdown)
