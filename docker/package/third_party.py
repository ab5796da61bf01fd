"""Prints the licences of the crates in the distributed binary, and of the C code that some of them carry.

Usage: third_party.py TARGET
"""

import json
import subprocess
import sys
from pathlib import Path

FEATURES = ["--locked", "--features", "static"]
# OpenSSL's source is a build dependency, and its code is in the binary.
BUILT_IN = {"openssl-src"}
NAMES = ("license", "licence", "copying", "notice", "copyright")
# Licences of code that is not compiled.
SKIPPED = {"test", "tests", "testdata", "examples", "benches", "contrib", "debian", "doc", "docs", "external", "packaging"}


def cargo(*arguments):
    run = subprocess.run(["cargo", *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return run.stdout


def crates(target, edges):
    """Name and version of each crate that these kinds of dependency lead to."""
    tree = cargo("tree", *FEATURES, "--target", target, "--edges", edges, "--prefix", "none", "--format", "{p}")
    return {tuple(line.split()[:2]) for line in tree.splitlines() if line}


def main(target):
    used = crates(target, "normal")
    used |= {crate for crate in crates(target, "normal,build") if crate[0] in BUILT_IN}
    metadata = json.loads(cargo("metadata", *FEATURES, "--format-version", "1", "--filter-platform", target))
    packages = [p for p in metadata["packages"] if p["source"] and (p["name"], "v" + p["version"]) in used]
    packages.sort(key=lambda p: (p["name"], p["version"]))

    print("users-sync is distributed under the Apache License 2.0. Its binary contains Rust's standard library")
    print("(MIT OR Apache-2.0), these crates, and their C code.\n")
    places = {}
    for package in packages:
        print(f"{package['name']} {package['version']}: {package['license'] or 'see its file below'}")
        root = Path(package["manifest_path"]).parent
        for file in sorted(root.rglob("*")):
            path = file.relative_to(root)
            is_license = file.name.lower().startswith(NAMES) and file.suffix.lower() in ("", ".md", ".txt")
            # librdkafka's LICENSES.txt repeats the files LICENSE.* beside it.
            if is_license and file.is_file() and not SKIPPED & set(path.parts[:-1]):
                text = file.read_text(errors="replace").strip()
                places.setdefault(text, []).append(f"{package['name']} {package['version']}: {path}")
    for text, files in sorted(places.items(), key=lambda entry: entry[1]):
        print("\n" + "=" * 100)
        print("\n".join(files))
        print("=" * 100 + "\n\n" + text)


main(*sys.argv[1:])
