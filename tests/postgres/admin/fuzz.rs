//! schemathesis sends requests derived from the OpenAPI description and checks the answers against it.

use super::bed::{AdminBed, add, loopback};
use crate::support::Bed;
use std::path::Path;
use std::process::Stdio;

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_matches_the_openapi_description() {
    let bed = Bed::start(&["acme", "globex"]).await;
    add(&bed, "acme", 20).await;
    let mut config = bed.config();
    config.admin = loopback(Some("hunter2-hunter2x"));
    let shown = AdminBed::start(config).await;
    bed.equal().await;
    let work = Path::new(env!("CARGO_TARGET_TMPDIR")).join("schemathesis");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/postgres/admin/schemathesis.sh");
    let mut fuzzing = tokio::process::Command::new(script);
    fuzzing
        .env("URL", format!("http://{}", shown.at))
        .env("TOKEN", "hunter2-hunter2x")
        .env("TENANT", "acme")
        .env("WORK", work);
    let output = fuzzing.stdin(Stdio::null()).kill_on_drop(true).output().await.unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{said}");
    println!("{said}");
    shown.stop().await;
}
