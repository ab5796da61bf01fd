//! The documentation points at things that exist: relative links, headings, paths in backquotes, types and constants in
//! backquotes, and the functions and tests that a table of docs/ARCHITECTURE.md names beside a link to their file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The pages, and folders of pages.
const PAGES: [&str; 6] = ["README.md", "CHANGELOG.md", "docs", "docker", "tests/README.md", "tests/providers"];
/// What a path in backquotes starts with.
const ROOTS: [&str; 9] = ["src/", "tests/", "docs/", "config/", "docker/", "benches/", "fuzz/", ".ci/", ".cargo/"];

/// Where a type or constant in backquotes has to stand.
const CODE: [&str; 3] = ["src", "tests", ".ci"];

/// Everything that a page names and that does not exist, as `page:line: ...`.
pub fn findings(root: &Path) -> Vec<String> {
    let mut pages = Vec::new();
    PAGES.iter().for_each(|page| collect(&root.join(page), &mut pages));
    assert!(pages.len() > 15, "{pages:?}");
    pages.sort();
    let known = words_of_code(root);
    pages.iter().flat_map(|page| page_findings(root, page, &known)).collect()
}

/// Every identifier in the code, its comments included.
fn words_of_code(root: &Path) -> BTreeSet<String> {
    let mut paths: Vec<PathBuf> = CODE.iter().map(|part| root.join(part)).collect();
    let mut words = BTreeSet::new();
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            words.extend(text.split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_owned));
        }
    }
    words
}

fn collect(path: &Path, pages: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            collect(&entry.unwrap().path(), pages);
        }
    } else if path.extension().is_some_and(|extension| extension == "md") {
        pages.push(path.to_owned());
    }
}

fn page_findings(root: &Path, page: &Path, known: &BTreeSet<String>) -> Vec<String> {
    let text = std::fs::read_to_string(page).unwrap();
    let name = page.strip_prefix(root).unwrap().display().to_string();
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut report = |what: String| findings.push(format!("{name}:{}: {what}", number + 1));
        let mut files = Vec::new();
        for link in links(line) {
            let (path, heading) = link.split_once('#').map_or((link, None), |(path, heading)| (path, Some(heading)));
            let file = if path.is_empty() { page.to_owned() } else { page.parent().unwrap().join(path) };
            if !file.exists() {
                report(format!("no file {link}"));
            } else if let Some(heading) = heading
                && !headings(&file).contains(heading)
            {
                report(format!("no heading {link}"));
            } else if file.extension().is_some_and(|extension| extension == "rs") {
                files.push(file);
            }
        }
        let quoted = quoted(line);
        for path in &quoted {
            let is_path = ROOTS.iter().any(|root| path.starts_with(root)) && !path.contains(['*', ' ', '<', ':']);
            // NAME stands for a file that a reader creates.
            if is_path && !path.contains("NAME") && !root.join(path).exists() {
                report(format!("no file {path}"));
            }
        }
        if name.starts_with("docs/") {
            let names = quoted.iter().filter(|text| !text.contains(' ')).flat_map(|text| text.split("::"));
            let names = names.map(|part| part.trim_end_matches("()"));
            let unknown = names.filter(|part| is_type_or_constant(part) && !known.contains(*part));
            unknown.for_each(|part| report(format!("no {part} in the code")));
        }
        if name == "docs/ARCHITECTURE.md" && line.starts_with('|') && files.len() == 1 {
            let code = std::fs::read_to_string(&files[0]).unwrap();
            let cells: Vec<&str> = line.split('|').collect();
            let linking = cells.iter().position(|cell| cell.contains("](")).unwrap_or_default();
            // The functions stand beside the link, or in the cell behind it.
            let functions = cells[linking..].iter().take(2).flat_map(|cell| self::quoted(cell));
            let functions = functions.filter(|name| is_function_name(name) && !defines(&code, name));
            functions.for_each(|name| report(format!("no function {name} there")));
        }
    }
    findings
}

/// The targets of a line's relative links.
fn links(line: &str) -> Vec<&str> {
    let targets = line.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target));
    targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:")).collect()
}

/// What stands in backquotes.
fn quoted(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

/// The anchors of a page's headings, as GitHub makes them.
fn headings(page: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(page).unwrap();
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let anchor = |heading: &str| -> String {
        let kept = heading.to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

fn is_function_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// `CamelCase` of two words or more, or `SCREAMING_CASE`.
fn is_type_or_constant(name: &str) -> bool {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let humps =
        name.chars().zip(name.chars().skip(1)).filter(|(a, b)| a.is_ascii_lowercase() && b.is_ascii_uppercase());
    let camel = !name.contains('_') && humps.count() > 0;
    let screaming = name.contains('_') && !name.contains(|c: char| c.is_ascii_lowercase());
    plain && name.starts_with(|c: char| c.is_ascii_uppercase()) && (camel || screaming)
}

fn defines(code: &str, name: &str) -> bool {
    let definition = format!("fn {name}");
    let mut rests = code.split(&definition).skip(1);
    rests.any(|rest| rest.starts_with(['(', '<']))
}
