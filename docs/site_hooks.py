"""MkDocs hooks: pages that live outside `docs/`, and a folder in which the documentation tools find the package."""

from __future__ import annotations

import os
import posixpath
import re
import shutil
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]

#: Pages of the site that stand elsewhere in the repository; in the site they have the same paths.
OUTSIDE = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "plugins/tensorrt/README.md")

_LINK = re.compile(r"(\]\()([^)#\s:]+\.(?:md|jpg))(#[^)\s]*)?(\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Link the package's modules and folders into `build/docs-package/keygraph`."""
    package = ROOT / "build" / "docs-package" / "keygraph"
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    for source in (*ROOT.glob("*.py"), *(file.parent for file in ROOT.glob("*/__init__.py"))):
        (package / source.name).symlink_to(os.path.relpath(source, package))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that live outside `docs/`."""
    for path in OUTSIDE:
        files.append(File.generated(config, path, content=(ROOT / path).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return a page with its links rewritten from repository paths, which a forge follows, to the site's paths.

    Parameters
    ----------
    markdown
        Text of the page.
    page
        Where the page is in the site.
    config, files
        Passed by MkDocs; not used.
    """
    here = page.file.src_uri
    folder = posixpath.dirname(here if here in OUTSIDE else f"docs/{here}")

    def rewrite(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[2]))
        inside = target if target in OUTSIDE else target.removeprefix("docs/")
        link = posixpath.relpath(inside, posixpath.dirname(here) or ".")
        return f"{match[1]}{link}{match[3] or ''}{match[4]}"

    return _LINK.sub(rewrite, markdown)
