//! PgBouncer in front of a throwaway server, as hosts have it: transaction mode, and no startup options.

use super::{DEADLINE, breathe};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;
use tempfile::TempDir;
use users_sync::throwaway::PostgresServer;

/// An account without privileges: PgBouncer does not run as root.
const ACCOUNT: &str = "daemon";

pub struct Pooler {
    child: Child,
    port: u16,
    _dir: TempDir,
}

/// `pgbouncer` on the path or where Debian has it.
fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = dirs.map(|dir| dir.join("pgbouncer")).find(|program| program.exists());
    found.expect("pgbouncer is missing: run .ci/setup, or install the package pgbouncer")
}

impl Pooler {
    /// In front of every database of the server. `settings` are further lines of its configuration.
    pub fn start(server: &PostgresServer, roles: &[&str], settings: &str) -> Pooler {
        Pooler::start_program(&program(), server, roles, settings)
    }

    /// The same with a version that can keep track of prepared statements: 1.21 or later.
    pub fn start_tracking(server: &PostgresServer, roles: &[&str], settings: &str) -> Pooler {
        let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.ci/pgbouncer")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let program = String::from_utf8(output.stdout).unwrap();
        Pooler::start_program(Path::new(program.trim()), server, roles, settings)
    }

    fn start_program(program: &Path, server: &PostgresServer, roles: &[&str], settings: &str) -> Pooler {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (users, config) = (dir.path().join("users"), dir.path().join("pgbouncer.ini"));
        let lines: String = roles.iter().map(|role| format!("\"{role}\" \"\"\n")).collect();
        std::fs::write(&users, lines).unwrap();
        let mut file = std::fs::File::create(&config).unwrap();
        write!(
            file,
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = transaction\n{settings}\n",
            server.port(),
            users.display()
        )
        .unwrap();
        let mut command = Command::new(program);
        if rustix::process::geteuid().is_root() {
            command.args(["-u", ACCOUNT]);
        }
        let child = command.arg(&config).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let pooler = Pooler { child, port, _dir: dir };
        let deadline = Instant::now() + DEADLINE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "pgbouncer does not listen");
            breathe();
        }
        pooler
    }

    pub fn url_for(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
