//! Words that the project's texts and names do not use: each has a plain replacement. Compared as whole words without
//! case; `_` separates words, and a phrase may continue on the next line.

use std::path::{Path, PathBuf};

/// Files and folders that are checked.
const CHECKED: [&str; 14] = [
    "src",
    "tests",
    "benches",
    "fuzz/fuzz_targets",
    "docs",
    "config",
    "docker",
    ".ci",
    ".cargo",
    "README.md",
    "CHANGELOG.md",
    "Makefile",
    "Cargo.toml",
    "build.rs",
];
/// `nobody` is the name of an account of the operating system there.
const ACCOUNT_NAMES: &str = "src/throwaway";
/// This list itself.
const THIS_FILE: &str = "tests/tidy/language.rs";
const EXTENSIONS: [&str; 14] =
    ["rs", "md", "yaml", "yml", "json", "js", "html", "css", "sql", "sh", "toml", "service", "java", "xml"];

/// A word or phrase, and what to write instead.
const WORDS: [(&str, &str); 26] = [
    ("whoever", "name the subject: the tenant, the process, the caller"),
    ("whomever", "name the object"),
    ("somebody", "another session, a person, an operator"),
    ("someone", "another session, a person, an operator"),
    ("nobody", "no tenant, no process, no session"),
    ("everybody", "every tenant, every user"),
    ("anybody", "any tenant, any process"),
    ("anew", "again, from the start, recreated"),
    ("mend", "fix, repair"),
    ("mends", "fixes, repairs"),
    ("mended", "fixed, repaired"),
    ("mending", "fixing"),
    ("so many", "the number"),
    ("so long at most", "the maximum time"),
    ("so often", "the number of times"),
    ("of use", "useful, used"),
    ("of no use", "useless, adds nothing"),
    ("no use", "useless, adds nothing"),
    ("is another one", "changed, differs"),
    ("gone for good", "deleted permanently"),
    ("looks at it again", "checks it again"),
    ("by itself", "automatically, on its own"),
    ("is told", "receives, learns"),
    ("is said", "is reported"),
    ("in vain", "without success"),
    ("and not before", "only then"),
];

/// Every use of a listed word, as `file:line: "word"; write ...`.
pub fn findings(root: &Path) -> Vec<String> {
    let mut files = Vec::new();
    CHECKED.iter().for_each(|checked| collect(&root.join(checked), &mut files));
    assert!(files.len() > 300, "only {} files were found", files.len());
    files.sort();
    let mut findings = Vec::new();
    for file in files {
        let path = file.strip_prefix(root).unwrap().display().to_string();
        if path == THIS_FILE {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{path}: {error}"));
        let uses = uses(&text).into_iter().filter(|found| found.word != "nobody" || !path.starts_with(ACCOUNT_NAMES));
        findings.extend(uses.map(|Use { line, word, instead }| format!("{path}:{line}: {word:?}; write {instead}")));
    }
    findings
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            collect(&entry.unwrap().path(), files);
        }
        return;
    }
    let is_text = match path.extension() {
        Some(extension) => EXTENSIONS.iter().any(|text| extension == *text),
        None => true,
    };
    if is_text && !path.ends_with("package-lock.json") {
        files.push(path.to_owned());
    }
}

/// A listed word in a text.
struct Use {
    /// The number of the line that it starts in.
    line: usize,
    word: &'static str,
    instead: &'static str,
}

/// The listed words in a text.
fn uses(text: &str) -> Vec<Use> {
    let lines: Vec<Vec<String>> = text.lines().map(words_of).collect();
    let mut uses = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let next = lines.get(number + 1).map(Vec::as_slice).unwrap_or_default();
        for start in 0..line.len() {
            for (phrase, instead) in WORDS {
                let mut here = line[start..].iter().chain(next);
                if phrase.split(' ').all(|word| here.next().is_some_and(|found| found == word)) {
                    uses.push(Use { line: number + 1, word: phrase, instead });
                }
            }
        }
    }
    uses
}

/// A line's words in lower case. Comment markers are no words, so a phrase may continue on the next line.
fn words_of(line: &str) -> Vec<String> {
    let words = line.split(|c: char| !c.is_alphanumeric() && c != '\'');
    let words = words.map(|word| word.trim_matches('\'').to_lowercase());
    words.map(|word| word.trim_end_matches("'s").to_owned()).filter(|word| !word.is_empty()).collect()
}

#[test]
fn listed_words_are_found_as_whole_words_without_case() {
    let found = |text: &str| uses(text).into_iter().map(|found| (found.line, found.word)).collect::<Vec<_>>();
    assert_eq!(found("fn a() {}\n// Nobody's\nTenantRef::Nobody"), [(2, "nobody"), (3, "nobody")]);
    assert_eq!(found("fn is_mended_here()"), [(1, "mended")]);
    assert_eq!(found("//! read so\n//! many times"), [(1, "so many")]);
    assert_eq!(found("recommended so manyfold, amend"), []);
}
