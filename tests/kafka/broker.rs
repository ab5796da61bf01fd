//! A real broker: Apache Kafka from Maven Central, in a directory of its own. One node, or a second one that joins the first.

use crate::support::{DEADLINE, breathe, pause};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;
use tempfile::TempDir;

const VERSION: &str = "4.3.1";
const FETCH_RETRIES: usize = 3;
/// Fixed, because the storage is formatted for one cluster.
const CLUSTER: &str = "MkU3OEVBNTcwNTJENDM2Qg";

/// Ends the broker when the pipe to this process closes, however this process dies. `$1` is the file with the broker's
/// pid, `$2` the directory to remove.
pub const WATCHDOG: &str = r#"read -r _; kill -9 "$(cat "$1")" 2>/dev/null; rm -rf "$2""#;

/// A broker and its address.
pub struct Broker {
    pub port: u16,
    /// The plain listener, which needs no credentials.
    internal: u16,
    /// The address of the cluster's controller.
    controller: u16,
    directory: PathBuf,
    child: Mutex<Option<Child>>,
    /// The watching shell; it ends with this process.
    _watchdog: Child,
}

/// How a broker differs from the default.
#[derive(Default)]
pub struct Settings {
    /// More lines of server.properties.
    pub lines: Vec<String>,
    /// The protocol of the listener, such as `SSL` or `SASL_SSL`.
    pub protocol: Option<&'static str>,
    /// Files beside server.properties.
    pub files: Vec<(&'static str, Vec<u8>)>,
    /// Arguments of the storage tool.
    pub format: Vec<String>,
}

impl Broker {
    /// The broker shared by all tests that do not harm it.
    pub fn shared() -> &'static Broker {
        static SHARED: OnceLock<Broker> = OnceLock::new();
        SHARED.get_or_init(|| Broker::start(&Settings::default()))
    }

    /// A cluster of one node, which is its controller, too.
    pub fn start(settings: &Settings) -> Broker {
        let controller = free_port();
        let roles = format!(
            "process.roles=broker,controller\nnode.id=1\n\
             listeners=CLIENTS://127.0.0.1:{{PORT}},INTERNAL://127.0.0.1:{{INTERNAL}},CONTROLLER://127.0.0.1:{controller}"
        );
        Broker::start_node(&roles, controller, settings)
    }

    /// A second node of its cluster, with a copy of each partition that has two.
    pub fn join(&self, settings: &Settings) -> Broker {
        let roles =
            "process.roles=broker\nnode.id=2\nlisteners=CLIENTS://127.0.0.1:{PORT},INTERNAL://127.0.0.1:{INTERNAL}";
        Broker::start_node(roles, self.controller, settings)
    }

    fn start_node(roles: &str, controller: u16, settings: &Settings) -> Broker {
        let directory = TempDir::with_prefix("users-sync-kafka-").unwrap().keep();
        let (port, internal) = (free_port(), free_port());
        let roles = roles.replace("{PORT}", &port.to_string()).replace("{INTERNAL}", &internal.to_string());
        for (name, content) in &settings.files {
            std::fs::write(directory.join(name), content).unwrap();
        }
        let protocol = settings.protocol.unwrap_or("PLAINTEXT");
        let properties = format!(
            "{roles}\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
             advertised.listeners=CLIENTS://localhost:{port},INTERNAL://127.0.0.1:{internal}\n\
             controller.listener.names=CONTROLLER\ninter.broker.listener.name=INTERNAL\n\
             listener.security.protocol.map=CLIENTS:{protocol},INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT\nlog.dirs={data}\n\
             offsets.topic.replication.factor=1\noffsets.topic.num.partitions=3\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
             transaction.state.log.num.partitions=3\nshare.coordinator.state.topic.replication.factor=1\n\
             group.initial.rebalance.delay.ms=0\nauto.create.topics.enable=false\n\
             log.cleaner.backoff.ms=100\nlog.cleaner.min.cleanable.ratio=0.01\n{more}\n",
            data = directory.join("data").display(),
            more = settings.lines.join("\n").replace("{DIR}", directory.to_str().unwrap()),
        );
        std::fs::write(directory.join("server.properties"), properties).unwrap();
        std::fs::write(directory.join("log4j2.xml"), LOG).unwrap();
        let mut format = java("kafka.tools.StorageTool");
        format.args(["format", "-t", CLUSTER, "-c"]).arg(directory.join("server.properties")).args(&settings.format);
        let formatted = format.stdin(Stdio::null()).output().unwrap();
        assert!(formatted.status.success(), "{}", String::from_utf8_lossy(&formatted.stderr));
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "sh"])
            .arg(directory.join("pid"))
            .arg(&directory)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let broker = Broker { port, internal, controller, directory, child: Mutex::new(None), _watchdog: watchdog };
        broker.run();
        broker
    }

    fn run(&self) {
        let log = std::fs::File::options().create(true).append(true).open(self.directory.join("log")).unwrap();
        let mut command = java_with("kafka.Kafka", "-Xmx512m");
        command.current_dir(&self.directory).arg(self.directory.join("server.properties"));
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        std::fs::write(self.directory.join("pid"), child.id().to_string()).unwrap();
        *self.child.lock().unwrap() = Some(child);
        let begun = Instant::now();
        while !self.log().contains("Kafka Server started") {
            assert!(begun.elapsed() < DEADLINE, "the broker does not start:\n{}", self.log());
            breathe();
        }
        std::fs::write(self.directory.join("log"), "").unwrap();
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    pub fn address(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// kill -9.
    pub fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it again on its stored data.
    pub fn restart(&self) {
        self.run();
    }

    /// Runs one of Kafka's own command line tools to its end. Returns its output.
    pub async fn tool(&self, class: &str, arguments: &[&str]) -> String {
        self.try_tool(class, arguments).await.unwrap_or_else(|text| panic!("{class}: {text}"))
    }

    /// As [`Broker::tool`]. The error is its output.
    pub async fn try_tool(&self, class: &str, arguments: &[&str]) -> Result<String, String> {
        let mut command = tokio::process::Command::from(java(class));
        let running = command.args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
        let output = tokio::time::timeout(DEADLINE, running).await.expect("the tool goes on").unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() { Ok(text) } else { Err(text + &String::from_utf8_lossy(&output.stderr)) }
    }

    /// Waits until the coordinator has recorded that all markers of the last transaction are written.
    pub async fn committed(&self, transactional_id: &str) {
        let server = format!("127.0.0.1:{}", self.internal);
        let arguments = ["--bootstrap-server", &server, "describe", "--transactional-id", transactional_id];
        let deadline = Instant::now() + DEADLINE;
        loop {
            let text = self.tool("org.apache.kafka.tools.TransactionsCommand", &arguments).await;
            if text.contains("CompleteCommit") {
                return;
            }
            assert!(Instant::now() < deadline, "{transactional_id}: {text}");
        }
    }

    /// Copies the data of a broker that does not run.
    pub fn back_up(&self) {
        let copy = self.directory.join("backup");
        let _ = std::fs::remove_dir_all(&copy);
        copy_directory(&self.directory.join("data"), &copy);
    }

    /// Puts the copies of the partitions in place whose names begin so. The broker does not run.
    pub fn restore(&self, only: &str) {
        for entry in std::fs::read_dir(self.directory.join("backup")).unwrap() {
            let name = entry.unwrap().file_name();
            if name.to_str().unwrap().starts_with(only) {
                let (from, to) = (self.directory.join("backup").join(&name), self.directory.join("data").join(&name));
                if from.is_dir() {
                    std::fs::remove_dir_all(&to).unwrap();
                    copy_directory(&from, &to);
                } else {
                    std::fs::copy(&from, &to).unwrap();
                }
            }
        }
    }

    /// Removes the marker of the last transaction of each of these partitions, as if the coordinator had been killed after it had
    /// recorded the end and before it had written the markers. The broker must be stopped.
    pub fn forget_last_markers(&self, partitions: &[&str]) {
        for partition in partitions {
            let log = self.directory.join("data").join(partition).join("00000000000000000000.log");
            let bytes = std::fs::read(&log).unwrap();
            // Each batch begins with its offset (8 bytes) and the size of the rest (4 bytes); its attributes are at 21.
            let mut begin = 0;
            let last = loop {
                let size: [u8; 4] = bytes[begin + 8..begin + 12].try_into().unwrap();
                let end = begin + 12 + u32::from_be_bytes(size) as usize;
                if end == bytes.len() {
                    break begin;
                }
                begin = end;
            };
            let is_control = bytes[last + 22] & 0x20 != 0;
            assert!(is_control, "{partition} does not end with a marker");
            std::fs::write(&log, &bytes[..last]).unwrap();
        }
    }

    /// Grants a role operations on a resource, such as `["Read", "Write"]` on `["--topic", "t"]`.
    pub async fn allow(&self, role: &str, operations: &[&str], resource: &[&str]) {
        self.change_rights("--add", role, operations, resource).await;
    }

    /// Takes away what [`Broker::allow`] granted.
    pub async fn revoke(&self, role: &str, operations: &[&str], resource: &[&str]) {
        self.change_rights("--remove", role, operations, &[&["--force"], resource].concat()).await;
    }

    async fn change_rights(&self, verb: &str, role: &str, operations: &[&str], resource: &[&str]) {
        let (server, principal) = (format!("127.0.0.1:{}", self.internal), format!("User:{role}"));
        let mut arguments = vec!["--bootstrap-server", &server, verb, "--allow-principal", &principal];
        arguments.extend(operations.iter().flat_map(|operation| ["--operation", operation]));
        arguments.extend(resource);
        self.tool("org.apache.kafka.tools.AclCommand", &arguments).await;
    }

    /// Feeds Kafka's console producer with lines of key, tab and value.
    pub async fn produce(&self, lines: &Path, topic: &str) {
        let mut command = tokio::process::Command::from(java("org.apache.kafka.tools.ConsoleProducer"));
        command.args(["--bootstrap-server", &self.address(), "--topic", topic, "--reader-property", "parse.key=true"]);
        let producing = command.stdin(std::fs::File::open(lines).unwrap()).kill_on_drop(true).output();
        let output = tokio::time::timeout(DEADLINE, producing).await.expect("it goes on").unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("the log of the broker:\n{}", self.log());
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Waits until the condition holds, with a deadline.
pub async fn until<F: AsyncFnMut() -> bool>(what: &str, mut holds: F) {
    let deadline = Instant::now() + DEADLINE;
    while !holds().await {
        assert!(Instant::now() < deadline, "still not so: {what}");
        pause().await;
    }
}

/// Arguments for programs that run for seconds: they take a third less processor time without the optimising compiler and the
/// parallel collector's threads.
pub const BRIEF: [&str; 2] = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"];

/// Runs a class of Kafka's with its libraries.
pub fn java(class: &str) -> Command {
    java_with(class, "-Xmx256m")
}

fn java_with(class: &str, memory: &str) -> Command {
    let mut command = Command::new("java");
    let libraries = libraries_of_kafka();
    command.args(BRIEF).arg(memory).args(["-Dlog4j2.configurationFile=log4j2.xml", "-cp", &libraries, class]);
    command
}

/// The class path of Kafka's own libraries.
pub fn libraries_of_kafka() -> String {
    libraries("kafka", VERSION)
}

/// The class path of the libraries that a Maven file in this directory names. They are fetched once per version.
pub fn libraries(name: &str, version: &str) -> String {
    format!("{}/*", fetched(name, version, "copy-dependencies").display())
}

/// The directory with the files that a Maven file in this directory names. `goal`: of Maven's dependency plugin.
pub fn fetched(name: &str, version: &str, goal: &str) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{version}"));
    if !directory.is_dir() {
        // An incomplete download must not appear under the final name.
        let half = directory.with_extension(std::process::id().to_string());
        let pom = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/kafka/{name}.pom.xml"));
        let mut maven = Command::new("mvn");
        maven.args(["-q", "-B", "-U", "-f"]).arg(pom).arg(format!("dependency:{goal}")).arg("-DincludeScope=runtime");
        maven.args([format!("-Drelease={version}"), format!("-DoutputDirectory={}", half.display())]);
        let mut fetch = || maven.output().expect("Maven fetches Java's libraries: `make setup` installs it");
        let mut fetched = fetch();
        // A mirror may not have a large file yet, and answer that it does not exist: -U asks again.
        for _ in 0..FETCH_RETRIES {
            if !fetched.status.success() {
                fetched = fetch();
            }
        }
        assert!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stdout));
        verify(&half, name);
        if std::fs::rename(&half, &directory).is_err() {
            assert!(directory.is_dir(), "{name} was not fetched");
            let _ = std::fs::remove_dir_all(&half);
        }
    }
    directory
}

/// Compares the fetched libraries with their list: `sha256sum *` writes it after a change of the Maven file.
fn verify(directory: &Path, name: &str) {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/kafka/{name}.sha256"));
    let listed = std::fs::read_to_string(&list).unwrap().lines().count();
    assert_eq!(std::fs::read_dir(directory).unwrap().count(), listed, "{name}.sha256 lists other libraries");
    let mut check = Command::new("sha256sum");
    check.args(["--check", "--strict", "--quiet"]).arg(list).current_dir(directory);
    let checked = check.output().expect("sha256sum is missing: install coreutils");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
}

pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

const LOG: &str = r#"<Configuration status="WARN"><Appenders><Console name="C"><PatternLayout pattern="%d{ISO8601} %p %m %c%n"/></Console></Appenders>
<Loggers><Root level="INFO"><AppenderRef ref="C"/></Root></Loggers></Configuration>"#;
