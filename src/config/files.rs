//! The files that a configuration is made of: the one that is named, those that it includes, and those whose content it
//! takes with `${file:...}`.

use super::error::ConfigError;
use super::interpolate::Env;
use super::raw::parse_yaml;
use super::resolve::{not_yaml, parse};
use super::settings::Config;
use super::tenants;
use std::cell::RefCell;
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What is known of a file without reading it; `None` where it cannot be looked at.
type Stamp = Option<(SystemTime, u64, u64)>;

/// The files behind a configuration, by which a change of them is noticed.
#[derive(Debug)]
pub struct Files {
    main: PathBuf,
    patterns: Vec<String>,
    contents: Vec<PathBuf>,
    stamps: Vec<(PathBuf, Stamp)>,
}

impl Files {
    /// Whether one of them was written, came or went since they were read.
    pub fn have_changed(&self) -> bool {
        self.look() != self.stamps
    }

    /// The same, from now on.
    pub fn look_again(&mut self) {
        self.stamps = self.look();
    }

    fn look(&self) -> Vec<(PathBuf, Stamp)> {
        let included = self.patterns.iter().flat_map(|pattern| expand(&self.main, pattern).unwrap_or_default());
        let all = std::iter::once(self.main.clone()).chain(included).chain(self.contents.clone());
        all.map(|path| (stamp(&path), path)).map(|(stamp, path)| (path, stamp)).collect()
    }
}

fn stamp(path: &Path) -> Stamp {
    let found = std::fs::metadata(path).ok()?;
    Some((found.modified().ok()?, found.len(), found.ino()))
}

/// The files that a pattern names, relative to the main file, in the order of their names.
fn expand(main: &Path, pattern: &str) -> Result<Vec<PathBuf>, String> {
    let beside = main.parent().unwrap_or(Path::new("")).join(pattern);
    let found = glob::glob(&beside.to_string_lossy()).map_err(|error| error.to_string())?;
    // A directory that cannot be read does not stand for one without files.
    let found: Vec<PathBuf> = found.collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    match found.is_empty() && !pattern.contains(['*', '?', '[']) {
        true => Err("there is no such file".to_owned()),
        false => Ok(found),
    }
}

/// Reads a configuration file and those that it includes. Files that one names with `${file:...}` are looked for beside it.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    Ok(load_with_files(path)?.0)
}

/// The same, with what it takes to notice that it has changed.
pub fn load_with_files(path: &Path) -> Result<(Config, Files), ConfigError> {
    let (contents, stamps) = (RefCell::new(Vec::new()), RefCell::new(HashMap::new()));
    // What is written after it was read is another one.
    let stamped = |path: &Path| {
        stamps.borrow_mut().insert(path.to_owned(), stamp(path));
    };
    let read = |beside: &Path, file: &str| {
        let path = beside.parent().unwrap_or(Path::new("")).join(file);
        stamped(&path);
        let text = std::fs::read_to_string(&path);
        contents.borrow_mut().push(path);
        text
    };
    stamped(path);
    let text = text_of(path)?;
    let name = path.display().to_string();
    let variable = |name: &str| std::env::var(name).ok();
    let mut config = parse(&name, &text, &Env { variable: &variable, file: &|file| read(path, file) })?;
    for pattern in &config.include.clone() {
        let files = expand(path, pattern)
            .map_err(|why| ConfigError::in_whole(&name, &format!("include: {pattern} cannot be read: {why}")))?;
        for file in files {
            stamped(&file);
            let (name, text) = (file.display().to_string(), text_of(&file)?);
            let from = Env { variable: &variable, file: &|named| read(&file, named) };
            let root = parse_yaml(&text).map_err(not_yaml);
            let included = root.and_then(|root| tenants::include(&mut config, &root, &from));
            included.map_err(|fault| fault.in_file(&name, &text))?;
        }
    }
    let patterns = config.include.clone();
    let mut files = Files { main: path.to_owned(), patterns, contents: contents.into_inner(), stamps: Vec::new() };
    files.look_again();
    // One that has come meanwhile was not read.
    let stamps = stamps.into_inner();
    files.stamps.iter_mut().for_each(|(path, stamp)| *stamp = stamps.get(path).copied().flatten());
    Ok((config, files))
}

fn text_of(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| ConfigError::unreadable(&path.display().to_string(), &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Diagnostic;

    const MAIN: &str = "source: {url: 'postgres://u@h/auth'}\nusers: {table: a.b, id: id, tenant: t}\n\
        include: [tenants.d/*.yaml]\n";

    fn tenants(config: &Config) -> Vec<String> {
        config.tenants.iter().map(|tenant| tenant.id.to_string()).collect()
    }

    #[test]
    fn tenants_may_stand_in_files_of_their_own_and_a_change_of_any_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        std::fs::create_dir(directory.path().join("tenants.d")).unwrap();
        let main = directory.path().join("users-sync.yaml");
        write("users-sync.yaml", MAIN);
        let (config, files) = load_with_files(&main).unwrap();
        assert!(config.tenants.is_empty() && !files.have_changed());

        write("tenants.d/b.yaml", "tenants: [{id: b, target: '${file:../b.url}'}]\n");
        write("b.url", "postgres://u@h/b");
        write("tenants.d/a.yaml", "tenants: [{id: a, target: 'postgres://u@h/a'}]\n");
        assert!(files.have_changed());
        let (config, files) = load_with_files(&main).unwrap();
        assert_eq!(tenants(&config), ["a", "b"]);
        assert!(!files.have_changed());
        write("b.url", "postgres://u@h/elsewhere");
        assert!(files.have_changed());
    }

    #[test]
    fn a_mistake_in_an_included_file_names_that_file() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        std::fs::create_dir(directory.path().join("tenants.d")).unwrap();
        let main = directory.path().join("users-sync.yaml");
        let error = |text: &str| {
            write("tenants.d/a.yaml", text);
            let error = load_with_files(&main).unwrap_err();
            Diagnostic::from(error).render(false)
        };
        write("users-sync.yaml", &format!("{MAIN}tenants: [{{id: a, target: 'postgres://u@h/a'}}]\n"));
        let twice = error("tenants: [{id: a, target: 'postgres://u@h/b'}]\n");
        assert!(twice.contains("two tenants have the id a") && twice.contains("tenants.d/a.yaml"), "{twice}");
        let unknown = error("limits: {}\n");
        assert!(unknown.contains("unknown key limits"), "{unknown}");
        write("users-sync.yaml", &MAIN.replace("tenants.d/*", "nowhere"));
        assert!(error("").contains("nowhere.yaml cannot be read: there is no such file"));
    }
}
