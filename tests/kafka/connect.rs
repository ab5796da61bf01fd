//! Kafka Connect with Debezium's JDBC sink.

use crate::broker::{free_port, libraries};
use std::path::Path;
use std::process::Command;

const DEBEZIUM: &str = "3.6.0.Final";

/// From a topic into the table `neon_auth.users_sync` of the database `sink`. The caller sets `options` of the JVM, and where the
/// output goes.
pub fn jdbc_sink(directory: &Path, brokers: &str, topic: &str, port: u16, options: &[&str]) -> Command {
    let converter = "org.apache.kafka.connect.json.JsonConverter";
    let worker = format!(
        "bootstrap.servers={brokers}\nlisteners=http://127.0.0.1:{}\noffset.storage.file.filename={}\nplugin.discovery=service_load\n\
         key.converter={converter}\nkey.converter.schemas.enable=true\n\
         value.converter={converter}\nvalue.converter.schemas.enable=true\n",
        free_port(),
        directory.join("offsets").display()
    );
    let sink = format!(
        "name=sink\nconnector.class=io.debezium.connector.jdbc.JdbcSinkConnector\ntopics={topic}\n\
         connection.url=jdbc:postgresql://127.0.0.1:{port}/sink\nconnection.username=postgres\nconnection.password=any\n\
         insert.mode=upsert\ndelete.enabled=true\nprimary.key.mode=record_key\nschema.evolution=basic\n\
         collection.name.format=neon_auth.users_sync\nconsumer.override.isolation.level=read_committed\n",
    );
    for (name, properties) in [("worker", worker), ("sink", sink)] {
        std::fs::write(directory.join(name), properties).unwrap();
    }
    let mut command = Command::new("java");
    command.current_dir(directory).args(options).args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp"]);
    command.args([
        &*libraries("debezium", DEBEZIUM),
        "org.apache.kafka.connect.cli.ConnectStandalone",
        "worker",
        "sink",
    ]);
    command
}
