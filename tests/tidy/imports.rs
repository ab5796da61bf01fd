//! Which file of the crate imports which: every `use` and every path, followed through modules and re-exports to the
//! file that defines the item. Works on tokens, so that macros and attributes count. `#[cfg(test)]` items do not.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

/// Segments as written, with `crate`, `self` and `super` in front where they stand there.
type Path = Vec<String>;

/// Keywords that the name of an item follows.
const DEFINES: [&str; 9] = ["fn", "struct", "enum", "union", "trait", "type", "const", "static", "macro_rules"];
/// Keywords of an item that `#[cfg(test)]` may stand before.
const ITEMS: [&str; 10] = ["fn", "struct", "enum", "union", "trait", "type", "const", "static", "impl", "use"];

#[derive(Default)]
struct Module {
    file: String,
    parent: Option<usize>,
    children: BTreeMap<String, usize>,
    defined: BTreeSet<String>,
    /// What `use` gives a name to.
    aliases: BTreeMap<String, Vec<Path>>,
    globs: Vec<Path>,
    /// All paths of its code, the imports among them.
    mentions: BTreeSet<Path>,
}

#[derive(Clone, Copy, PartialEq)]
enum Target {
    Module(usize),
    /// An item that this module defines.
    Item(usize),
}

/// The modules of a crate.
pub struct Imports {
    modules: Vec<Module>,
}

/// From each file the files that it imports, each with a path that does so.
pub type Edges = BTreeMap<String, BTreeMap<String, String>>;

impl Imports {
    /// Reads a crate from the texts of its files, by their paths; `root` is among them.
    pub fn read(root: &str, files: &BTreeMap<String, String>) -> Imports {
        let mut imports = Imports { modules: Vec::new() };
        let directory = root.rsplit_once('/').map_or("", |(directory, _)| directory);
        imports.add_file(None, root, directory, files);
        let read: HashSet<&str> = imports.modules.iter().map(|module| &*module.file).collect();
        let orphans: Vec<&String> = files.keys().filter(|file| !read.contains(&***file)).collect();
        assert!(orphans.is_empty(), "no module declares {orphans:?}");
        imports
    }

    fn add_file(
        &mut self,
        parent: Option<usize>,
        file: &str,
        directory: &str,
        files: &BTreeMap<String, String>,
    ) -> usize {
        let text = files.get(file).unwrap_or_else(|| panic!("no file {file}"));
        let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{file}: {error}"));
        let module = self.add_module(parent, file);
        self.read_items(module, tokens, directory, files);
        module
    }

    fn add_module(&mut self, parent: Option<usize>, file: &str) -> usize {
        self.modules.push(Module { file: file.to_owned(), parent, ..Module::default() });
        self.modules.len() - 1
    }

    /// Reads the items of a module whose children have their files in `directory`.
    fn read_items(&mut self, module: usize, tokens: TokenStream, directory: &str, files: &BTreeMap<String, String>) {
        let tokens = without_tests(tokens);
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            let name = tokens.get(at + 1).map(ToString::to_string).unwrap_or_default();
            match (token.to_string().as_str(), tokens.get(at + 2)) {
                ("mod", Some(TokenTree::Punct(_))) => {
                    let below = format!("{directory}/{name}");
                    let paths = [format!("{below}.rs"), format!("{below}/mod.rs")];
                    let file = paths.iter().find(|path| files.contains_key(*path));
                    let file = file.unwrap_or_else(|| panic!("no file of mod {name} in {directory}"));
                    let child = self.add_file(Some(module), file, &below, files);
                    self.modules[module].children.insert(name, child);
                    at += 2;
                }
                ("mod", Some(TokenTree::Group(body))) => {
                    let file = self.modules[module].file.clone();
                    let child = self.add_module(Some(module), &file);
                    self.modules[module].children.insert(name.clone(), child);
                    self.read_items(child, body.stream(), &format!("{directory}/{name}"), files);
                    at += 2;
                }
                ("macro_rules", Some(TokenTree::Ident(name))) => {
                    self.modules[module].defined.insert(name.to_string());
                }
                (keyword, _) if DEFINES.contains(&keyword) => {
                    self.modules[module].defined.insert(name);
                }
                _ => {}
            }
            at += 1;
        }
        self.read_paths(module, &tokens);
    }

    /// Reads the paths and imports of code, also those inside groups.
    fn read_paths(&mut self, module: usize, tokens: &[TokenTree]) {
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            match token {
                TokenTree::Ident(ident) if ident == "use" => {
                    let end = tokens[at..].iter().position(|token| is_punct(token, ';'));
                    let end = end.map_or(tokens.len(), |length| at + length);
                    self.read_use(module, &Path::new(), &tokens[at + 1..end]);
                    at = end;
                }
                // The name is not in scope, and the body is a module of its own.
                TokenTree::Ident(ident) if ident == "mod" => at += 2,
                // A visibility is no import: pub(crate), pub(in crate::a).
                TokenTree::Ident(ident) if ident == "pub" => {
                    let restricted =
                        matches!(tokens.get(at + 1), Some(TokenTree::Group(group)) if is_visibility(group));
                    at += usize::from(restricted);
                }
                TokenTree::Ident(_) => {
                    let (path, length) = path_at(&tokens[at..]);
                    let is_external = at > 1 && is_punct(&tokens[at - 1], ':') && is_punct(&tokens[at - 2], ':');
                    if !is_external {
                        self.modules[module].mentions.insert(path);
                    }
                    at += length - 1;
                }
                TokenTree::Group(group) => {
                    let inside = without_tests(group.stream());
                    self.read_paths(module, &inside);
                }
                _ => {}
            }
            at += 1;
        }
    }

    /// Reads what follows `use`, or stands in one of its groups.
    fn read_use(&mut self, module: usize, before: &Path, tokens: &[TokenTree]) {
        for part in tokens.split(|token| is_punct(token, ',')) {
            let mut path = before.clone();
            let mut name = None;
            let mut rest = part.iter();
            while let Some(token) = rest.next() {
                match token {
                    // The name of an external crate follows.
                    TokenTree::Punct(punct) if punct.as_char() == ':' && path.is_empty() => path.push(String::new()),
                    TokenTree::Ident(ident) if ident == "as" => name = rest.next().map(ToString::to_string),
                    TokenTree::Ident(ident) if ident == "self" && !path.is_empty() => {}
                    TokenTree::Ident(ident) => path.push(ident.to_string()),
                    TokenTree::Punct(punct) if punct.as_char() == '*' => {
                        self.modules[module].mentions.insert(path.clone());
                        self.modules[module].globs.push(std::mem::take(&mut path));
                    }
                    TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                        let inside: Vec<TokenTree> = group.stream().into_iter().collect();
                        self.read_use(module, &std::mem::take(&mut path), &inside);
                    }
                    _ => {}
                }
            }
            if let Some(last) = path.last() {
                let name = name.unwrap_or_else(|| last.clone());
                let module = &mut self.modules[module];
                module.mentions.insert(path.clone());
                module.aliases.entry(name).or_default().push(path);
            }
        }
    }

    /// What the path leads to, seen from the module. Nothing where that is in another crate.
    fn resolve(&self, module: usize, path: &[String], seen: &mut HashSet<(usize, String)>) -> Vec<Target> {
        let Some((first, mut rest)) = path.split_first() else { return Vec::new() };
        let mut found = match first.as_str() {
            "crate" => vec![Target::Module(0)],
            "self" => vec![Target::Module(module)],
            "super" => self.modules[module].parent.map(Target::Module).into_iter().collect(),
            name => self.look_up(module, name, seen).unwrap_or_default(),
        };
        while let Some((segment, after)) = rest.split_first() {
            let step = |target: Target| match target {
                Target::Module(id) if segment == "super" => {
                    self.modules[id].parent.map(Target::Module).into_iter().collect()
                }
                // A macro has defined it, where nothing else has.
                Target::Module(id) => self.look_up(id, segment, seen).unwrap_or_else(|| vec![Target::Item(id)]),
                // A variant, or an associated item.
                Target::Item(_) => vec![target],
            };
            found = found.into_iter().flat_map(step).collect();
            rest = after;
        }
        found
    }

    /// What the name stands for in the module, in every namespace; `None` if it has no such name.
    fn look_up(&self, id: usize, name: &str, seen: &mut HashSet<(usize, String)>) -> Option<Vec<Target>> {
        let module = &self.modules[id];
        if !seen.insert((id, name.to_owned())) {
            return None;
        }
        let mut found: Option<Vec<Target>> = module.children.get(name).map(|child| vec![Target::Module(*child)]);
        if module.defined.contains(name) {
            found.get_or_insert_default().push(Target::Item(id));
        }
        for path in module.aliases.get(name).into_iter().flatten() {
            // `use glob::glob` names the crate, not itself.
            let leads = self.resolve(id, path, seen);
            found.get_or_insert_default().extend(leads);
        }
        if found.is_none() {
            found = self.look_up_in_globs(id, name, seen);
        }
        seen.remove(&(id, name.to_owned()));
        found
    }

    fn look_up_in_globs(&self, id: usize, name: &str, seen: &mut HashSet<(usize, String)>) -> Option<Vec<Target>> {
        self.modules[id].globs.iter().find_map(|glob| {
            self.resolve(id, glob, seen).into_iter().find_map(|target| match target {
                Target::Module(glob) => self.look_up(glob, name, seen),
                Target::Item(_) => None,
            })
        })
    }

    /// Which file imports which.
    pub fn edges(&self) -> Edges {
        let mut edges = Edges::new();
        for (id, module) in self.modules.iter().enumerate() {
            for path in &module.mentions {
                let targets = match path.as_slice() {
                    // A name on its own: what it imports was counted where it was imported, unless by a glob.
                    [name] if name != "super" && !module.aliases.contains_key(name) => {
                        let is_own = module.defined.contains(name) || module.children.contains_key(name);
                        let globbed = || self.look_up_in_globs(id, name, &mut HashSet::new()).unwrap_or_default();
                        if is_own { Vec::new() } else { globbed() }
                    }
                    path => self.resolve(id, path, &mut HashSet::new()),
                };
                for target in targets {
                    let (Target::Module(target) | Target::Item(target)) = target;
                    let target = &self.modules[target].file;
                    if *target != module.file {
                        let from = edges.entry(module.file.clone()).or_default();
                        let shown = from.entry(target.clone()).or_default();
                        // Of several paths the one that says most.
                        if shown.len() < path.join("::").len() {
                            *shown = path.join("::");
                        }
                    }
                }
            }
        }
        edges
    }
}

/// Of each file the shortest cycle that it is part of: its files, each with the path that imports it from the one before.
pub fn cycles(edges: &Edges) -> Vec<String> {
    let mut shown: BTreeSet<BTreeSet<&str>> = BTreeSet::new();
    let mut cycles = Vec::new();
    for start in edges.keys() {
        let Some(cycle) = cycle_through(edges, start) else { continue };
        if shown.insert(cycle.iter().map(|(file, _)| *file).collect()) {
            let steps: String = cycle.iter().map(|(file, path)| format!(" -> {file} ({path})")).collect();
            cycles.push(format!("{start}{steps}"));
        }
    }
    cycles
}

/// The files after `start` on the shortest way back to it, each with the path that imports it.
fn cycle_through<'a>(edges: &'a Edges, start: &'a str) -> Option<Vec<(&'a str, &'a str)>> {
    let mut came_from: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(file) = queue.pop_front() {
        for (next, path) in edges.get(file).into_iter().flatten() {
            if came_from.contains_key(next.as_str()) {
                continue;
            }
            came_from.insert(next, (file, path));
            queue.push_back(next);
            if next == start {
                let mut cycle = Vec::new();
                let mut at = start;
                while cycle.is_empty() || at != start {
                    let (before, path) = came_from[at];
                    cycle.push((at, path));
                    at = before;
                }
                cycle.reverse();
                return Some(cycle);
            }
        }
    }
    None
}

/// The path that begins here, and how many tokens it takes.
fn path_at(tokens: &[TokenTree]) -> (Path, usize) {
    let mut path = vec![tokens[0].to_string()];
    let mut at = 1;
    while let [first, second, TokenTree::Ident(ident), ..] = &tokens[at..]
        && is_punct(first, ':')
        && is_punct(second, ':')
    {
        path.push(ident.to_string());
        at += 3;
    }
    (path, at)
}

/// The tokens without each item that `#[cfg(test)]` stands before. The declaration of a file stays: a file of tests
/// imports like any other.
fn without_tests(tokens: TokenStream) -> Vec<TokenTree> {
    let mut kept: Vec<TokenTree> = Vec::new();
    let mut tokens = tokens.into_iter();
    while let Some(token) = tokens.next() {
        let is_for_tests = kept.last().is_some_and(|last| is_punct(last, '#'))
            && matches!(&token, TokenTree::Group(group) if is_cfg_test(group));
        if !is_for_tests {
            kept.push(token);
            continue;
        }
        let mut item = Vec::new();
        for token in tokens.by_ref() {
            let has_keyword =
                |keywords: &[&str]| item.iter().any(|token: &TokenTree| keywords.contains(&token.to_string().as_str()));
            let is_end = match &token {
                TokenTree::Punct(punct) if punct.as_char() == ';' => true,
                // A field, a variant or an arm; the generics of an item have commas, too.
                TokenTree::Punct(punct) if punct.as_char() == ',' => !has_keyword(&ITEMS),
                TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => !has_keyword(&["use"]),
                _ => false,
            };
            item.push(token);
            if is_end {
                break;
            }
        }
        let declares = matches!(&item[..], [.., TokenTree::Ident(_), TokenTree::Ident(_), end] if is_punct(end, ';'));
        if declares {
            kept.extend(item);
        }
    }
    kept
}

/// `[cfg(test)]`, also `[cfg(all(test, ...))]`, but not `[cfg(not(test))]`.
fn is_cfg_test(attribute: &Group) -> bool {
    fn asks_for_tests(tokens: TokenStream) -> bool {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        tokens.iter().enumerate().any(|(at, token)| match token {
            TokenTree::Ident(ident) => ident == "test",
            TokenTree::Group(group) => {
                let is_negated = at > 0 && tokens[at - 1].to_string() == "not";
                !is_negated && asks_for_tests(group.stream())
            }
            _ => false,
        })
    }
    let tokens: Vec<TokenTree> = attribute.stream().into_iter().collect();
    let [TokenTree::Ident(name), TokenTree::Group(condition)] = &tokens[..] else { return false };
    name == "cfg" && asks_for_tests(condition.stream())
}

fn is_visibility(group: &Group) -> bool {
    let first = group.stream().into_iter().next().map(|token| token.to_string()).unwrap_or_default();
    group.delimiter() == Delimiter::Parenthesis && ["crate", "super", "self", "in"].contains(&first.as_str())
}

fn is_punct(token: &TokenTree, wanted: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == wanted)
}

/// The imports between the files of a crate with the root `lib.rs`, as lines `from -> to`.
fn lines_of(files: &[(&str, &str)]) -> Vec<String> {
    let edges = read_texts(files);
    let lines = edges.iter().flat_map(|(from, to)| to.keys().map(move |to| format!("{from} -> {to}")));
    lines.collect()
}

fn read_texts(files: &[(&str, &str)]) -> Edges {
    let files = files.iter().map(|(path, text)| (format!("src/{path}"), text.to_string())).collect();
    let in_src = |path: String| path.strip_prefix("src/").unwrap().to_owned();
    let edges = Imports::read("src/lib.rs", &files).edges().into_iter();
    edges.map(|(from, to)| (in_src(from), to.into_iter().map(|(to, path)| (in_src(to), path)).collect())).collect()
}

#[test]
fn an_import_counts_in_every_form() {
    for code in [
        "use crate::b::X;",
        "use crate::b;",
        "use crate::b as c;",
        "use crate::b::X as _;",
        "use crate::b::*;",
        "use crate::{b::{self, X}, c};",
        "use crate::{\n    c,\n    b::X,\n};",
        "use super::b::X;",
        "use super::{b::X};",
        "pub use crate::b::X;",
        "pub(crate) use crate::b::X;",
        "#[cfg(feature = \"f\")] use crate::b::X;",
        "#[cfg(not(test))] use crate::b::X;",
        "fn f() { use crate::b::X; }",
        "fn f() -> crate::b::X { todo() }",
        "fn f() { super::b::g(1) }",
        "fn f() { m!(\"{}\", crate::b::g()) }",
        "impl<T> crate::b::X for Vec<T> {}",
        "#[error(\"{}\", crate::b::g())] struct Y;",
        "struct Y { pub(crate) x: Option<crate::b::X> }",
        "mod inner { use super::super::b::X; }",
        "mod inner { pub use crate::b::X; } use inner::X;",
        "macro_rules! m { () => { $crate::b::g() } }",
    ] {
        let lines =
            lines_of(&[("lib.rs", "mod a; mod b; mod c;"), ("a.rs", code), ("b.rs", "pub struct X;"), ("c.rs", "")]);
        assert!(lines.contains(&"a.rs -> b.rs".to_owned()), "{code}: {lines:?}");
    }
}

#[test]
fn what_only_looks_like_an_import_does_not_count() {
    for code in [
        "use tokio::b::X;",
        "use ::b::X;",
        "use b::X;",
        "fn f() { ::b::g() }",
        "// use crate::b::X;",
        "/// As [`crate::b::X`].\nstruct Y;",
        "const S: &str = \"crate::b::X\";",
        "fn f(b: u8) -> u8 { b.min(self.b).b::<X>() }",
        "pub(in crate::b) struct Y;",
        "mod b { pub struct X; } use b::X; fn f() { b::g() }",
        "#[cfg(test)] use crate::b::{X, Y};",
        "#[cfg(test)] fn f<A, B>() { crate::b::g() }",
        "#[cfg(test)]\n#[allow(unused)]\nmod tests { use crate::b::X; }",
        "#[cfg(all(test, unix))] impl Y { fn f() { crate::b::g() } }",
        "struct Y { #[cfg(test)] x: crate::b::X, y: u8 }",
    ] {
        let lines = lines_of(&[("lib.rs", "mod a; mod b;"), ("a.rs", code), ("b.rs", "pub struct X;")]);
        assert!(lines.is_empty(), "{code}: {lines:?}");
    }
}

#[test]
fn an_import_leads_to_the_file_that_defines_the_item() {
    let root = ("lib.rs", "mod a; mod b;");
    // Through one re-export and through two, renamed, in a group and by a glob.
    for (index, user) in [
        ("mod x; pub use x::X;", "use crate::b::X;"),
        ("mod x; pub use x::X as Z;", "use crate::b::Z;"),
        ("mod x; mod y { pub use super::x::*; } pub use y::*;", "use crate::b::X;"),
        ("mod x; pub use self::x::{X, Y};", "use crate::b; fn f() { b::X::new() }"),
        ("mod x; pub use x::X;", "use crate::b::X::{One, Two};"),
        ("mod x; pub use x::made_by_a_macro;", "use crate::b::made_by_a_macro;"),
    ] {
        let lines = lines_of(&[root, ("a.rs", user), ("b/mod.rs", index), ("b/x.rs", "m!(); pub enum X {}")]);
        assert!(lines.contains(&"a.rs -> b/x.rs".to_owned()), "{index} {user}: {lines:?}");
    }
    // The name of an inline module is no import of its parent's other names.
    let lines = lines_of(&[root, ("a.rs", "use crate::b::inner::X;"), ("b.rs", "pub mod inner { pub struct X; }")]);
    assert_eq!(lines, ["a.rs -> b.rs"]);
    // A module and a function of one name are imported together.
    let lines =
        lines_of(&[root, ("a.rs", "use crate::b::x;"), ("b/mod.rs", "pub mod x; pub fn x() {}"), ("b/x.rs", "")]);
    assert_eq!(lines, ["a.rs -> b/mod.rs", "a.rs -> b/x.rs"]);
}

#[test]
fn a_file_of_tests_imports_like_any_other() {
    let files =
        [("lib.rs", "mod a;"), ("a.rs", "fn f() {}\n#[cfg(test)]\nmod tests;"), ("a/tests.rs", "use super::*;")];
    assert_eq!(lines_of(&files), ["a/tests.rs -> a.rs"]);
}

#[test]
fn a_cycle_is_shown_with_its_files_and_names() {
    let edges = read_texts(&[
        ("lib.rs", "mod a; mod b; mod c;"),
        ("a.rs", "use crate::b::B;"),
        ("b.rs", "pub struct B(crate::c::C);"),
        ("c.rs", "pub struct C; use super::a::A;"),
    ]);
    assert_eq!(cycles(&edges), ["a.rs -> b.rs (crate::b::B) -> c.rs (crate::c::C) -> a.rs (super::a::A)"]);
}

#[test]
fn a_cycle_through_a_re_export_is_seen() {
    let cycle = |text: &str| {
        let index = ("b/mod.rs", "mod x; mod y; pub use x::X; pub use y::Y;");
        let root = ("lib.rs", "mod b;");
        cycles(&read_texts(&[root, index, ("b/x.rs", text), ("b/y.rs", "pub struct Y(super::X);")]))
    };
    assert_eq!(cycle("pub struct X(crate::b::Y);"), ["b/x.rs -> b/y.rs (crate::b::Y) -> b/x.rs (super::X)"]);
    assert!(cycle("pub struct X;").is_empty());
}

#[test]
fn a_child_must_not_import_what_its_parent_defines_and_vice_versa() {
    let cycle = |parent: &str, child: &str| {
        cycles(&read_texts(&[
            ("lib.rs", "mod a;"),
            ("a/mod.rs", &format!("mod child; mod other; pub struct Shared; {parent}")),
            ("a/child.rs", &format!("pub struct Child; {child}")),
            ("a/other.rs", "pub struct Other;"),
        ]))
    };
    for parent in ["pub use child::Child;", "use child::Child;", "fn f() { child::g() }", "use self::child as c;"] {
        for child in ["use super::Shared;", "fn f(_: &super::Shared) {}", "use crate::a::{self, Other};"] {
            let cycles = cycle(parent, child);
            assert_eq!(cycles.len(), 1, "{parent} {child}");
            assert!(cycles[0].starts_with("a/child.rs -> a/mod.rs ("), "{}", cycles[0]);
        }
        assert!(cycle(parent, "use super::other::Other;").is_empty(), "{parent}");
    }
    // A declaration alone imports nothing.
    assert!(cycle("", "use super::Shared;").is_empty());
}
