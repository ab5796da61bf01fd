"""Validates every complete configuration on a page against config/users-sync.schema.json: each ```yaml block with a top-level
`source:` and `users:`. Variables have no value here, so only what is written is checked."""

import json
import re
import sys
from pathlib import Path

import jsonschema
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^( *)```yaml\n(.*?)^\1```$", re.M | re.S)


class Loader(yaml.SafeLoader):
    """Refuses a key that is written twice, as users-sync does."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        for key in {key for key in keys if keys.count(key) > 1}:
            raise yaml.YAMLError(f"{key} is there twice")
        return super().construct_mapping(node, deep)


schema = jsonschema.Draft202012Validator(json.loads((ROOT / "config/users-sync.schema.json").read_text()))
checked, faults = set(), []
for page in PAGES:
    text, name = page.read_text(), page.relative_to(ROOT).as_posix()
    for block in BLOCK.finditer(text):
        place = f"{name}:{text.count(chr(10), 0, block.start()) + 1}"
        try:
            document = yaml.load(block[2], Loader)
        except yaml.YAMLError as error:
            faults.append(f"{place}: {error}")
            continue
        if not isinstance(document, dict) or not {"source", "users"} <= document.keys():
            continue
        checked.add(name)
        faults += [f"{place}: {error.json_path}: {error.message}" for error in schema.iter_errors(document)]
presets = {path.stem for path in (ROOT / "config/presets").glob("*.yaml")}
faults += [f"docs/stores/{preset}.md has no complete configuration" for preset in sorted(presets)
           if f"docs/stores/{preset}.md" not in checked]
if faults:
    sys.exit("\n".join(faults))
