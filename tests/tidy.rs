//! Rules that no linter checks: file headers, pure files, stages that do not import each other, and language.

// Clippy recognises only functions marked as tests; every function here is part of one.
#![allow(clippy::unwrap_used)]

#[path = "tidy/imports.rs"]
mod imports;
#[path = "tidy/language.rs"]
mod language;
#[path = "tidy/links.rs"]
mod links;

use imports::{Edges, Imports, cycles};
use std::path::{Path, PathBuf};

/// The stages of the flow: only `replicator` knows more than one of them.
const STAGES: [&str; 4] = ["capture", "map", "route", "apply"];
/// A longer file should be split along the flow.
const LONGEST: usize = 500;
/// What a file does not mention whose header says "Pure".
const IMPURE: [&str; 8] =
    ["tokio::", "tracing", "Instant", "SystemTime", "TcpStream", "ToSocketAddrs", "std::fs", "std::process"];

struct Source {
    /// Relative to the crate's root.
    path: PathBuf,
    text: String,
}

impl Source {
    /// The lines that are not comments.
    fn code(&self) -> impl Iterator<Item = &str> {
        self.text.lines().filter(|line| !line.trim_start().starts_with("//"))
    }

    fn mentions(&self, word: &str) -> bool {
        self.code().any(|line| line.contains(word))
    }

    /// Whether the header says "Pure".
    fn is_pure(&self) -> bool {
        let mut header = self.text.lines().take_while(|line| line.starts_with("//!"));
        header.any(|line| line.split(|c: char| !c.is_alphanumeric()).any(|word| word == "Pure"))
    }

    /// The stage that the file belongs to.
    fn stage(&self) -> Option<&'static str> {
        STAGES.into_iter().find(|stage| {
            self.path.starts_with(format!("src/{stage}")) || self.path == Path::new(&format!("src/{stage}.rs"))
        })
    }

    /// Whether the code imports the module `name` of the crate, alone or in a group of imports.
    fn reaches(&self, name: &str) -> bool {
        let code: String = self.code().flat_map(str::chars).filter(|c| !c.is_whitespace()).collect();
        let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        let names =
            |text: &str, before: &str| text.split(before).skip(1).any(|rest| rest.strip_prefix(name).is_some_and(ends));
        let groups = code.split("crate::{").skip(1).map(|group| group.split(';').next().unwrap_or(group));
        names(&code, "crate::")
            || names(&code, "super::")
            || groups.into_iter().any(|group| names(&format!("{{{group}"), "{") || names(group, ","))
    }
}

fn sources(under: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut directories = vec![root.join(under)];
    let mut sources = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                sources.push(Source { path: path.strip_prefix(root).unwrap().to_owned(), text });
            }
        }
    }
    assert!(!sources.is_empty(), "{under} is empty");
    sources
}

fn everything() -> impl Iterator<Item = Source> {
    ["src", "tests", "benches", "fuzz/fuzz_targets"].into_iter().flat_map(sources)
}

/// Fails with all findings at once.
fn check<T: std::fmt::Display>(findings: impl IntoIterator<Item = T>) {
    let findings: Vec<_> = findings.into_iter().map(|finding| finding.to_string()).collect();
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

#[test]
fn every_file_opens_with_a_header() {
    let silent = everything().filter(|source| !source.text.starts_with("//! "));
    check(silent.map(|source| format!("{} does not open with //!", source.path.display())));
}

#[test]
fn no_source_file_is_too_long() {
    let lengths = sources("src").into_iter().filter(|source| !source.path.ends_with("tests.rs")).map(|source| {
        let lines = source.text.lines().take_while(|line| line.trim() != "#[cfg(test)]").count();
        (source.path, lines)
    });
    check(
        lengths.filter(|(_, lines)| *lines > LONGEST).map(|(path, lines)| {
            format!("{} has {lines} lines before its tests, {LONGEST} is the most", path.display())
        }),
    );
}

#[test]
fn only_one_file_of_the_commands_prints() {
    let printing = sources("src").into_iter().filter(|source| {
        // The demonstration shows its own throwaway servers, and the simulation runs in tests.
        let elsewhere = ["src/demo", "src/cli/demo.rs", "src/replicator/simulation"];
        let is_exempt =
            elsewhere.iter().any(|path| source.path.starts_with(path)) || source.path.ends_with("output.rs");
        let code = source.text.split("#[cfg(test)]").next().unwrap_or_default();
        let mut code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        !is_exempt && code.any(|line| ["print!(", "println!("].iter().any(|print| line.contains(print)))
    });
    check(printing.map(|source| {
        format!("{} prints: use cli/output.rs, which escapes what a terminal would obey", source.path.display())
    }));
}

#[test]
fn stages_do_not_import_each_other() {
    let sources = sources("src");
    check(sources.iter().flat_map(|source| {
        let own = source.stage();
        let others = STAGES.into_iter().filter(move |other| own.is_some_and(|own| own != *other));
        let reached = others.filter(|other| source.reaches(other));
        reached.map(|other| format!("{} reaches into the stage {other}", source.path.display()))
    }));
}

#[test]
fn the_model_imports_no_other_module() {
    let ours = ["config", "pg", "snapshot", "progress", "state", "replicator", "throwaway"].into_iter().chain(STAGES);
    let model = sources("src/model");
    check(ours.flat_map(|module| {
        let reaching = model.iter().filter(move |source| source.reaches(module));
        reaching.map(move |source| format!("{} reaches {module}", source.path.display()))
    }));
}

#[test]
fn pure_files_do_no_io_read_no_clock_and_log_nothing() {
    let pure: Vec<Source> = sources("src").into_iter().filter(Source::is_pure).collect();
    assert!(pure.len() > 50, "{} files say that they are pure", pure.len());
    check(pure.iter().flat_map(|source| {
        let code = source.text.split("#[cfg(test)]").next().unwrap_or_default();
        let lines = || code.lines().filter(|line| !line.trim_start().starts_with("//"));
        let words = IMPURE.into_iter().filter(move |word| lines().any(|line| line.contains(word)));
        words.map(|word| format!("{} mentions {word}, but its header says Pure", source.path.display()))
    }));
}

#[test]
fn no_placeholder_is_left_and_no_test_is_skipped() {
    // In two parts, so that this file does not match.
    let marks = [["todo", "!("], ["unimplemented", "!("], ["dbg", "!("], ["#[igno", "re"]].map(|parts| parts.concat());
    check(everything().flat_map(|source| {
        let found: Vec<_> = marks.iter().filter(|mark| source.mentions(mark)).cloned().collect();
        found.into_iter().map(move |mark| format!("{} holds {mark}", source.path.display()))
    }));
}

#[test]
fn tests_poll_and_do_not_sleep() {
    let naps = ["::sl", "eep("].concat();
    // tests/support polls with a deadline on behalf of all tests.
    let elsewhere = |source: &Source| !source.path.starts_with("tests/support");
    let napping = sources("tests").into_iter().filter(elsewhere).filter(|source| source.mentions(&naps));
    check(napping.map(|source| format!("{} sleeps: poll with a deadline", source.path.display())));
}

#[test]
fn an_import_of_another_stage_is_found_in_every_form() {
    let reaches = |code: &str| Source { path: PathBuf::new(), text: code.to_owned() }.reaches("map");
    for code in [
        "use crate::map;",
        "use crate::map::Rules;",
        "use crate::{map, pg};",
        "use crate::{pg::{a, b},\n    map::{Rules}};",
        "fn f() { super::super::map::g() }",
    ] {
        assert!(reaches(code), "{code}");
    }
    for code in
        ["use crate::mapped;", "use crate::model::{a, map_it};", "// use crate::map;", "let map = crate::pg::f();"]
    {
        assert!(!reaches(code), "{code}");
    }
}

/// The imports of the library.
fn imports() -> Edges {
    let library = sources("src").into_iter().filter(|source| source.path != Path::new("src/main.rs"));
    let files = library.map(|source| (source.path.display().to_string(), source.text)).collect();
    Imports::read("src/lib.rs", &files).edges()
}

#[test]
fn no_import_cycle_exists_between_files() {
    check(cycles(&imports()));
}

#[test]
fn the_modules_of_the_replicator_import_in_one_direction() {
    let index =
        sources("src/replicator").into_iter().find(|source| source.path.ends_with("replicator/mod.rs")).unwrap();
    // The order of declaration is the order of dependency.
    let declared = index.code().filter_map(|line| line.strip_suffix(';')?.split_once("mod ")).map(|(_, name)| name);
    let order: Vec<&str> = declared.collect();
    assert!(order.len() > 10, "{order:?}");
    let place = |file: &str| {
        let below = file.strip_prefix("src/replicator/")?.split(['/', '.']).next()?;
        order.iter().position(|name| *name == below)
    };
    let edges = imports();
    let pairs = edges.iter().flat_map(|(from, to)| to.iter().map(move |(to, path)| (from, to, path)));
    check(
        pairs.filter(|(from, to, _)| place(from) < place(to) && place(from).is_some()).map(|(from, to, path)| {
            format!("{from} imports {path} of {to}, which src/replicator/mod.rs declares later")
        }),
    );
}

#[test]
fn no_text_or_name_uses_a_listed_word() {
    check(language::findings(Path::new(env!("CARGO_MANIFEST_DIR"))));
}

#[test]
fn documentation_names_only_what_exists() {
    check(links::findings(Path::new(env!("CARGO_MANIFEST_DIR"))));
}

#[test]
fn every_test_module_is_described() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let described = std::fs::read_to_string(root.join("tests/README.md")).unwrap();
    // Parts of the other modules, and modules that only declare others.
    let parts = ["bed.rs", "broker.rs", "consumer.rs", "http.rs", "imports.rs", "language.rs", "links.rs", "main.rs"];
    let modules = sources("tests").into_iter().map(|source| source.path);
    let modules = modules.filter(|path| !parts.iter().any(|part| path.ends_with(part)));
    let modules = modules.filter(|path| !path.ends_with("mod.rs") || path.starts_with("tests/support"));
    check(modules.filter_map(|path| {
        let path = path.strip_prefix("tests").unwrap().display().to_string();
        (!described.contains(&format!("]({path})"))).then(|| format!("tests/README.md does not describe {path}"))
    }));
}
