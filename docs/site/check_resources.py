"""Fails if a built page loads anything from another site. Links that a reader follows do not count."""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

LOADED = {"script": ["src"], "link": ["href"], "img": ["src", "srcset"], "iframe": ["src"], "source": ["src", "srcset"],
          "video": ["src", "poster"], "audio": ["src"], "object": ["data"], "embed": ["src"], "use": ["href"]}
OUTSIDE = re.compile(r"(https?:)?//", re.I)
IN_STYLES = re.compile(r"(?:url\(\s*|@import\s+)[\"']?(?:https?:)?//[^\"')\s]*", re.I)


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.in_style = [], False

    def handle_starttag(self, tag, attributes):
        self.in_style = tag == "style"
        values = dict(attributes)
        self.found += [values[name] for name in LOADED.get(tag, []) if OUTSIDE.match(values.get(name) or "")]
        self.found += IN_STYLES.findall(values.get("style") or "")

    def handle_data(self, data):
        if self.in_style:
            self.found += IN_STYLES.findall(data)


site = Path(sys.argv[1])
pages = sorted(site.rglob("*.html"))
if len(pages) < 20:
    sys.exit(f"{site} has only {len(pages)} pages")
faults = []
for path in pages:
    page = Page()
    page.feed(path.read_text())
    faults += [f"{path}: loads {resource}" for resource in page.found]
for path in site.rglob("*.css"):
    faults += [f"{path}: loads {resource}" for resource in IN_STYLES.findall(path.read_text())]
if faults:
    sys.exit("\n".join(faults))
