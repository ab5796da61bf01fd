//! The files that a configuration is made of: the main file, those that it includes, and those whose content it contains
//! with `${file:...}`.

use super::error::ConfigError;
use super::interpolate::Env;
use super::tenant_rows::{TenantRows, WithRows, with_rows};
use super::tenants::Tenant;
use super::top::{Config, include, parse, set_redactions};
use std::cell::RefCell;
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// What changes when a file is written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileVersion {
    modified: SystemTime,
    /// In bytes.
    length: u64,
    inode: u64,
}

/// `None` if the file cannot be examined.
type Stamp = Option<FileVersion>;

/// The files of a configuration, to notice changes.
#[derive(Debug)]
pub(crate) struct Files {
    /// Empty if there is none.
    main: PathBuf,
    patterns: Vec<String>,
    contents: Vec<PathBuf>,
    stamps: Vec<(PathBuf, Stamp)>,
}

impl Files {
    /// Whether a file was written, added or removed since the files were read.
    pub(crate) fn have_changed(&self) -> bool {
        self.stamps_now() != self.stamps
    }

    /// Watches what was read, and nothing else.
    fn of(main: &Path, seen: Seen) -> Files {
        let (patterns, contents) = (seen.patterns.into_inner(), seen.contents.into_inner());
        let mut files = Files { main: main.to_owned(), patterns, contents, stamps: Vec::new() };
        files.mark_read();
        // A file that was added meanwhile has not been read.
        let read = seen.stamps.into_inner();
        files.stamps.iter_mut().for_each(|(path, stamp)| *stamp = read.get(path).copied().flatten());
        files
    }

    /// Watches what was read, too.
    fn add(&mut self, seen: Seen) {
        let (patterns, contents) = (seen.patterns.into_inner(), seen.contents.into_inner());
        add_missing(&mut self.patterns, patterns);
        add_missing(&mut self.contents, contents);
        self.mark_read();
        let read = seen.stamps.into_inner();
        for (path, stamp) in &mut self.stamps {
            if let Some(then) = read.get(path) {
                *stamp = *then;
            }
        }
    }

    /// Treats the files' present state as read.
    pub(crate) fn mark_read(&mut self) {
        self.stamps = self.stamps_now();
    }

    fn stamps_now(&self) -> Vec<(PathBuf, Stamp)> {
        let included = self.patterns.iter().flat_map(|pattern| expand(&self.main, pattern).unwrap_or_default());
        let main = (!self.main.as_os_str().is_empty()).then(|| self.main.clone());
        let all = main.into_iter().chain(included).chain(self.contents.clone());
        all.map(|path| (stamp(&path), path)).map(|(stamp, path)| (path, stamp)).collect()
    }
}

/// Adds what is not known yet.
fn add_missing<T: Ord>(known: &mut Vec<T>, found: Vec<T>) {
    known.extend(found);
    known.sort_unstable();
    known.dedup();
}

fn stamp(path: &Path) -> Stamp {
    let found = std::fs::metadata(path).ok()?;
    Some(FileVersion { modified: found.modified().ok()?, length: found.len(), inode: found.ino() })
}

/// The files that match a pattern relative to the main file, sorted by name.
fn expand(main: &Path, pattern: &str) -> Result<Vec<PathBuf>, String> {
    let beside = main.parent().unwrap_or(Path::new("")).join(pattern);
    let found = glob::glob(&beside.to_string_lossy()).map_err(|error| error.to_string())?;
    // An unreadable directory is an error, not a directory without files.
    let found: Vec<PathBuf> = found.collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    if found.is_empty() && !pattern.contains(['*', '?', '[']) {
        return Err("there is no such file".to_owned());
    }
    Ok(found)
}

/// Where a configuration is read from.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// A file, and those that it includes.
    File(PathBuf),
    /// Environment variables, for one tenant with the defaults of every other key.
    Environment,
}

/// Whether the environment names a source, so that no file is needed.
pub(crate) fn is_in_environment() -> bool {
    std::env::var_os(SOURCE_VARIABLE).is_some_and(|url| !url.is_empty())
}

const SOURCE_VARIABLE: &str = "USERS_SYNC_SOURCE_URL";
/// Names the variables' text in messages.
const ENVIRONMENT: &str = "environment";

/// The configuration that the environment variables stand for. A line whose variable is not set is left out, except those
/// that every configuration has.
fn environment_text(is_set: impl Fn(&str) -> bool) -> String {
    let line = |variable: &str, line: &str| if is_set(variable) { format!("{line}\n") } else { String::new() };
    [
        format!("source: {{url: \"${{{SOURCE_VARIABLE}}}\"}}\n"),
        "users: {preset: \"${USERS_SYNC_PRESET}\"}\n".to_owned(),
        "tenants:\n  - id: \"${USERS_SYNC_TENANT:-main}\"\n".to_owned(),
        line("USERS_SYNC_TENANT_KEY", "    key: \"${USERS_SYNC_TENANT_KEY}\""),
        "    target: \"${USERS_SYNC_TARGET_URL}\"\n".to_owned(),
        line("USERS_SYNC_ADMIN_LISTEN", "admin:\n  listen: \"${USERS_SYNC_ADMIN_LISTEN}\""),
        if is_set("USERS_SYNC_ADMIN_LISTEN") {
            line("USERS_SYNC_ADMIN_TOKEN", "  token: \"${USERS_SYNC_ADMIN_TOKEN}\"")
        } else {
            String::new()
        },
    ]
    .concat()
}

/// Reads the configuration from environment variables.
fn load_environment() -> Result<LoadedConfig, ConfigError> {
    let variable = |name: &str| std::env::var(name).ok();
    let text = environment_text(|name| std::env::var_os(name).is_some());
    let file = |_: &str| Err(std::io::Error::from(std::io::ErrorKind::NotFound));
    let config = parse(ENVIRONMENT, &text, &Env { variable: &variable, file: &file })?;
    let files = Files { main: PathBuf::new(), patterns: Vec::new(), contents: Vec::new(), stamps: Vec::new() };
    Ok(LoadedConfig { config, files })
}

/// A configuration and its files.
#[derive(Debug)]
pub(crate) struct LoadedConfig {
    pub(crate) config: Config,
    pub(crate) files: Files,
}

/// Reads a configuration file and the files that it includes.
///
/// # Errors
/// Every fault of the main file, or else every fault of the included files.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    Ok(load_file(path)?.config)
}

/// Reads a configuration, and returns the files to watch for changes.
///
/// # Errors
/// As [`load`].
pub(crate) fn load_from(place: &Place) -> Result<LoadedConfig, ConfigError> {
    match place {
        Place::File(path) => load_file(path),
        Place::Environment => load_environment(),
    }
}

/// Adds the tenants that [`Config::tenant_table`] returned. Their variables and files are read now.
///
/// # Errors
/// As [`with_rows`].
pub(crate) fn load_rows(
    place: &Place,
    files: &Config,
    current: &[Arc<Tenant>],
    rows: &TenantRows,
) -> Result<WithRows, ConfigError> {
    let beside = match place {
        Place::File(path) => path.parent().unwrap_or(Path::new("")),
        Place::Environment => Path::new(""),
    };
    let variable = |name: &str| std::env::var(name).ok();
    let file = |named: &str| std::fs::read_to_string(beside.join(named));
    with_rows(files, current, rows, &Env { variable: &variable, file: &file })
}

/// Reads a configuration again, and watches its files from now on. Those of one that is rejected are watched beside the
/// files of the current one: it is read again when one of them is corrected, or appears.
///
/// # Errors
/// As [`load`].
pub(crate) fn reload_from(place: &Place, watched: &mut Files) -> Result<Config, ConfigError> {
    let Place::File(path) = place else { return Ok(load_environment()?.config) };
    let seen = Seen::default();
    let read = read_file(path, &seen);
    match &read {
        Ok(_) => *watched = Files::of(path, seen),
        Err(_) => watched.add(seen),
    }
    read
}

fn load_file(path: &Path) -> Result<LoadedConfig, ConfigError> {
    let seen = Seen::default();
    let config = read_file(path, &seen)?;
    Ok(LoadedConfig { config, files: Files::of(path, seen) })
}

/// Reads a configuration file and the files that it includes. A relative path in `${file:...}` starts at the directory of
/// the file that contains it.
fn read_file(path: &Path, seen: &Seen) -> Result<Config, ConfigError> {
    let text = seen.read(path).map_err(|error| unreadable(path, &error))?;
    let name = path.display().to_string();
    let variable = |name: &str| std::env::var(name).ok();
    let mut config = parse(&name, &text, &Env { variable: &variable, file: &|file| seen.read_content(path, file) })?;
    seen.patterns.borrow_mut().clone_from(&config.include);
    let mut errors = Vec::new();
    for pattern in &config.include.clone() {
        let files = match expand(path, pattern) {
            Ok(files) => files,
            Err(why) => {
                errors.push(ConfigError::in_whole(&name, &format!("include: {pattern} cannot be read: {why}")));
                continue;
            }
        };
        for file in files {
            let env = Env { variable: &variable, file: &|named| seen.read_content(&file, named) };
            let text = seen.read(&file).map_err(|error| unreadable(&file, &error));
            errors.extend(text.and_then(|text| include(&mut config, &file.display().to_string(), &text, &env)).err());
        }
    }
    set_redactions(&mut config);
    errors.into_iter().reduce(ConfigError::and).map_or(Ok(config), Err)
}

/// The files that have been read.
#[derive(Default)]
struct Seen {
    /// Of `include`.
    patterns: RefCell<Vec<String>>,
    /// Of `${file:...}`, also those that do not exist.
    contents: RefCell<Vec<PathBuf>>,
    stamps: RefCell<HashMap<PathBuf, Stamp>>,
}

impl Seen {
    /// The stamp is taken first: a write after it counts as a change.
    fn read(&self, path: &Path) -> std::io::Result<String> {
        self.stamps.borrow_mut().insert(path.to_owned(), stamp(path));
        std::fs::read_to_string(path)
    }

    /// Reads a file for `${file:...}` in the file `beside`.
    fn read_content(&self, beside: &Path, file: &str) -> std::io::Result<String> {
        let path = beside.parent().unwrap_or(Path::new("")).join(file);
        let text = self.read(&path);
        self.contents.borrow_mut().push(path);
        text
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> ConfigError {
    ConfigError::unreadable(&path.display().to_string(), error)
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
    fn tenants_may_be_in_included_files_and_every_change_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        std::fs::create_dir(directory.path().join("tenants.d")).unwrap();
        let main = directory.path().join("users-sync.yaml");
        write("users-sync.yaml", MAIN);
        let LoadedConfig { config, files } = load_file(&main).unwrap();
        assert!(config.tenants.is_empty() && !files.have_changed());

        write("tenants.d/b.yaml", "tenants: [{id: b, target: '${file:../b.url}'}]\n");
        write("b.url", "postgres://u@h/b");
        write("tenants.d/a.yaml", "tenants: [{id: a, target: 'postgres://u@h/a', mask: [name]}]\n");
        assert!(files.have_changed());
        let LoadedConfig { config, files } = load_file(&main).unwrap();
        assert_eq!(tenants(&config), ["a", "b"]);
        assert!(config.users.redactions.by_key.keys().eq(["a"]));
        assert_eq!(config.families[0].rules, config.users);
        assert!(!files.have_changed());
        write("b.url", "postgres://u@h/elsewhere");
        assert!(files.have_changed());
    }

    #[test]
    fn a_rejected_configuration_is_read_again_when_a_file_that_it_names_changes() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        let main = directory.path().join("users-sync.yaml");
        let text = "source: {url: 'postgres://u@h/auth'}\nusers: {table: a.b, id: id, tenant: t}\n";
        let with_tenant = |more: &str| format!("{text}tenants: [{{id: a, target: 'postgres://u@h/a'}}]\n{more}");
        write("users-sync.yaml", &with_tenant(""));
        let LoadedConfig { mut files, .. } = load_file(&main).unwrap();
        let place = Place::File(main);

        write("users-sync.yaml", &with_tenant("include: [more-*.yaml]\n"));
        write("more-b.yaml", "tenants: [{id: b, target: '${file:b.url}'}]\n");
        assert!(files.have_changed());
        reload_from(&place, &mut files).unwrap_err();
        assert!(!files.have_changed());
        // A file of the rejected configuration is corrected, and one that it named appears.
        write("more-b.yaml", "tenants: [{id: b, target: '${file:./b.url}'}]\n");
        assert!(files.have_changed());
        reload_from(&place, &mut files).unwrap_err();
        assert!(!files.have_changed());
        write("b.url", "postgres://u@h/b");
        assert!(files.have_changed());
        assert_eq!(tenants(&reload_from(&place, &mut files).unwrap()), ["a", "b"]);
        assert!(!files.have_changed());
    }

    #[test]
    fn one_tenant_needs_no_file() {
        let read = |set: &[(&str, &str)]| {
            let variable = |name: &str| set.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned());
            let text = environment_text(|name| variable(name).is_some());
            let file = |_: &str| Err(std::io::Error::from(std::io::ErrorKind::NotFound));
            parse(ENVIRONMENT, &text, &Env { variable: &variable, file: &file })
        };
        let (source, preset) = (("USERS_SYNC_SOURCE_URL", "postgres://u@h/auth"), ("USERS_SYNC_PRESET", "keycloak"));
        let target = ("USERS_SYNC_TARGET_URL", "postgres://u@h/app");
        assert_eq!(tenants(&read(&[source, preset, target]).unwrap()), ["main"]);
        let listen = ("USERS_SYNC_ADMIN_LISTEN", "0.0.0.0:9187");
        let token = ("USERS_SYNC_ADMIN_TOKEN", "0123456789abcdef");
        let key = ("USERS_SYNC_TENANT_KEY", "0ec5: '1' # x");
        let config = read(&[source, preset, target, key, listen, token, ("USERS_SYNC_TENANT", "acme")]).unwrap();
        assert_eq!((tenants(&config), config.tenants[0].key.as_str()), (vec!["acme".to_owned()], key.1));
        assert!(config.admin.is_some());
        let error = Diagnostic::from(read(&[source]).unwrap_err()).render(false);
        for name in ["USERS_SYNC_PRESET", "USERS_SYNC_TARGET_URL"] {
            assert!(error.contains(&format!("the environment variable {name} is not set")), "{error}");
        }
    }

    #[test]
    fn a_fault_in_an_included_file_names_that_file() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        std::fs::create_dir(directory.path().join("tenants.d")).unwrap();
        let main = directory.path().join("users-sync.yaml");
        let error = |text: &str| {
            write("tenants.d/a.yaml", text);
            let error = load_file(&main).unwrap_err();
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
