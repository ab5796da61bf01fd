//! libpq's password file (manual: "The Password File"): lines of `host:port:database:user:password`.

use super::super::regular_file::open_regular;
use super::super::{PgUrl, Secret};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Longer files are refused.
const MAX_BYTES: u64 = 1 << 20;
/// Permissions of others than the owner.
const OTHERS: u32 = 0o077;

/// The password of the first line that fits.
pub(super) async fn find(path: PathBuf, url: &PgUrl) -> Result<Secret, String> {
    let shown = path.display().to_string();
    let read = tokio::task::spawn_blocking(move || read(&path)).await;
    let text =
        read.unwrap_or_else(|stopped| Err(stopped.to_string())).map_err(|why| format!("passfile {shown}: {why}"))?;
    match text.lines().find_map(|line| password_of(line, url)) {
        Some(password) => Ok(Secret(password)),
        None => Err(format!("passfile {shown} has no line for {url} and role {}", url.user)),
    }
}

fn read(path: &Path) -> Result<String, String> {
    let file = open_regular(path).map_err(|error| error.to_string())?;
    let mode = file.metadata().map_err(|error| error.to_string())?.permissions().mode();
    if mode & OTHERS != 0 {
        return Err(format!("others can access it; run: chmod 600 {}", path.display()));
    }
    let mut text = String::new();
    let read = file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if u64::try_from(read).is_ok_and(|read| read <= MAX_BYTES) { Ok(text) } else { Err("it is too long".to_owned()) }
}

/// The password of a line, if its first four fields fit. `*` fits everything, and a backslash escapes a colon or itself.
fn password_of(line: &str, url: &PgUrl) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let mut fields = Fields(line);
    let port = url.port.to_string();
    // A directory of Unix sockets is also called localhost.
    let is_socket = url.host.starts_with('/');
    let fits = |field: &str, value: &str| field == "*" || field == value;
    let host = fields.next()?;
    let is_host = fits(&host, &url.host) || is_socket && host == "localhost";
    let others = [&*port, &url.database, &url.user];
    let is_rest = others.into_iter().try_fold(true, |all, value| Some(all && fits(&fields.next()?, value)))?;
    let password = fields.next()?;
    (is_host && is_rest && !password.is_empty()).then_some(password)
}

/// The fields of a line, without their escapes.
struct Fields<'a>(&'a str);

impl Iterator for Fields<'_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let mut field = String::new();
        let mut rest = self.0.chars();
        while let Some(c) = rest.next() {
            match c {
                ':' => {
                    self.0 = rest.as_str();
                    return Some(field);
                }
                '\\' => field.extend(rest.next()),
                c => field.push(c),
            }
        }
        let is_last = !self.0.is_empty();
        self.0 = "";
        is_last.then_some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: Option<&str>) {
        let url = PgUrl::parse("postgres://a%3Ab@db.example:6543/app").unwrap();
        assert_eq!(password_of(line, &url).as_deref(), expected, "{line}");
    }

    #[test]
    fn lines_fit_as_in_libpq() {
        check("db.example:6543:app:a\\:b:secret", Some("secret"));
        check("*:*:*:*:se\\:cr\\\\et", Some("se:cr\\et"));
        check("*:*:*:*:secret:more", Some("secret"));
        for line in [
            "# db.example:6543:app:a\\:b:secret",
            "db.example:5432:app:a\\:b:secret",
            "other:*:*:*:secret",
            "*:*:other:*:secret",
            "*:*:*:other:secret",
            "*:*:*:*:",
            "*:*:*:*",
            "",
            "*",
        ] {
            check(line, None);
        }
        let socket = PgUrl::parse("postgres://u@%2Frun/app").unwrap();
        assert_eq!(password_of("localhost:*:*:u:secret", &socket).as_deref(), Some("secret"));
    }

    #[tokio::test]
    async fn a_file_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pass file");
        let url = PgUrl::parse("postgres://u@h/app").unwrap();
        assert!(find(path.clone(), &url).await.unwrap_err().contains("No such file"));
        std::fs::write(&path, "h:5432:app:u:hunter2\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = find(path.clone(), &url).await.unwrap_err();
        assert!(error.contains("chmod 600") && !error.contains("hunter2"), "{error}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(find(path.clone(), &url).await, Ok(Secret("hunter2".to_owned())));
        let other = PgUrl::parse("postgres://v@h/app").unwrap();
        let error = find(path, &other).await.unwrap_err();
        assert!(error.contains("has no line for h:5432/app and role v") && !error.contains("hunter2"), "{error}");
    }
}
