//! The statements in the pages of docs/errors run as printed, each in the database that its page names.

use super::read;
use crate::support::{Bed, Service};
use std::path::Path;

/// What stands before a block of statements, and the database of the bed.
const PLACES: [(&str, &str); 3] =
    [("In the state's database:", "auth"), ("At the source:", "auth"), ("In the target:", "acme")];

/// The blocks of statements, each with the line before it.
fn blocks(page: &str) -> Vec<(&str, &str)> {
    let mut parts = page.split("```sql\n");
    let mut before = parts.next().unwrap_or_default();
    let mut blocks = Vec::new();
    for part in parts {
        let (statements, after) = part.split_once("```").unwrap();
        blocks.push((before.trim_end().lines().last().unwrap_or_default(), statements));
        before = after;
    }
    blocks
}

#[tokio::test]
async fn the_statements_of_the_pages_run_as_printed() {
    let bed = Bed::start(&["acme"]).await;
    let service = Service::start(bed.config());
    bed.state_is("acme", "following").await;
    service.stop().await;
    let mut count = 0;
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/errors")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let page = read(&format!("docs/errors/{name}"));
        for (place, statements) in blocks(&page) {
            let place = PLACES.into_iter().find(|(known, _)| *known == place);
            let (_, database) = place.unwrap_or_else(|| panic!("{name} does not say where to run\n{statements}"));
            let run = bed.server.sql(database, &format!("BEGIN;\n{statements}ROLLBACK;")).await;
            run.unwrap_or_else(|error| panic!("{name}: {error}\n{statements}"));
            count += 1;
        }
    }
    assert!(count > 80, "only {count} blocks were found");
}
