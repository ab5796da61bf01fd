"""Hooks of MkDocs: which files of the repository are pages, and what GitHub and Python-Markdown read differently."""

import os
import posixpath
import re
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", "CHANGELOG.md", "docs/**/*.md", "docker/README.md", "docker/helm/README.md", "tests/README.md", "tests/providers/README.md",
         "benches/peers.md"]
# The address of the repository's files, such as https://example.com/users-sync/blob/main. Without it, links to files that are
# not pages become plain text.
SOURCE = os.environ.get("SITE_SOURCE", "").rstrip("/")
LINK = re.compile(r"\[([^\]]*)\]\(([^()\s]+)\)")
ITEM = re.compile(r"( *)([-*]|\d+\.)( +)\S")


def on_files(files, config):
    for pattern in PAGES:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    folder = posixpath.dirname(page.file.src_uri)

    def link(match):
        text, target = match.groups()
        path = posixpath.normpath(posixpath.join(folder, target.partition("#")[0]))
        if re.match(r"[a-z]+:|#", target) or files.get_file_from_path(path):
            return match[0]
        if not (ROOT / path).exists():
            raise PluginError(f"{page.file.src_uri}: there is no file {target}")
        return f"[{text}]({SOURCE}/{path})" if SOURCE else text

    return indented("\n".join(line if is_code else LINK.sub(link, line) for line, is_code in lines(markdown)))


def lines(markdown):
    """Each line, and whether it is part of a fenced code block."""
    fence = None
    for line in markdown.split("\n"):
        mark = re.match(r" *(```+|~~~+)", line)
        yield line, fence is not None or mark is not None
        if mark and fence is None:
            fence = mark[1]
        elif fence and line.strip() == fence:
            fence = None


def indented(markdown):
    """Lists as Python-Markdown needs them: four spaces for each level, and an empty line before the first item."""
    result, open_items, before = [], [], ""
    for line, is_code in lines(markdown):
        indent = len(line) - len(line.lstrip(" "))
        item = None if is_code else ITEM.match(line)
        # A paragraph may continue with less indentation.
        is_lazy = before.strip() and not item and not is_code and not line.startswith(("#", "|"))
        if line.strip() and not (open_items and is_lazy):
            while open_items and open_items[-1] > indent:
                open_items.pop()
        inner = open_items[-1] if open_items else 0
        if item and indent - inner < 4:
            if not open_items and before.strip() and not ITEM.match(before):
                result.append("")
            result.append(" " * 4 * len(open_items) + line.lstrip(" "))
            open_items.append(len(item[1]) + len(item[2]) + len(item[3]))
        else:
            result.append(" " * 4 * len(open_items) + line[min(inner, indent):] if line.strip() else "")
        before = line
    return "\n".join(result)
