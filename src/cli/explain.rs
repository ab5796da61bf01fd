//! `explain`: prints what becomes of each column of the source, the page of a code, or all codes.

use super::common::ConfigFile;
use super::output::{self, Format};
use crate::check::columns;
use crate::cli::exit::ExitCode;
use crate::config::Config;
use crate::diagnostic::{Diagnostic, diagnostic};
use crate::model::{
    CheckFinding, CommandFault, HistoryBreak, ParkCause, ResyncReason, RetryCause, SlotLoss, SourceTrouble,
    StatusFinding, TeeRestart, TopicTrouble,
};
use clap::Args;
use serde::Serialize;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Code to explain, such as slot_gone. Default: what becomes of each column of the source.
    #[arg(value_name = "CODE")]
    code: Option<String>,
    /// List all codes.
    #[arg(long, conflicts_with = "code")]
    codes: bool,
    #[command(flatten)]
    pub(super) format: Format,
}

/// A code, its text and its page.
#[derive(Clone, Copy, Debug, Serialize)]
struct Explanation {
    code: &'static str,
    text: &'static str,
    page: &'static str,
}

/// Codes that belong together.
struct Area {
    title: &'static str,
    explanations: Vec<Explanation>,
}

macro_rules! areas {
    ($($title:literal: $reasons:ident,)*) => {
        /// Every code, in the order of src/model/reason.rs.
        fn areas() -> Vec<Area> {
            vec![$({
                let explain = |reason: &$reasons| Explanation {
                    code: reason.code(),
                    text: reason.text(),
                    page: reason.page(),
                };
                Area { title: $title, explanations: $reasons::ALL.iter().map(explain).collect() }
            },)*]
        }
    };
}

areas! {
    "Why a tenant takes a snapshot": ResyncReason,
    "Why a tenant is parked": ParkCause,
    "Why a tenant is tried again after a pause": RetryCause,
    "Why a new generation begins": HistoryBreak,
    "How the replication slot was lost": SlotLoss,
    "Why the Kafka output starts over": TeeRestart,
    "What is wrong with the topics of the Kafka output": TopicTrouble,
    "Why no session on the source works": SourceTrouble,
    "What else needs attention": StatusFinding,
    "What check finds": CheckFinding,
    "Why a command failed": CommandFault,
}

pub(super) async fn execute(arguments: &Arguments, file: &ConfigFile) -> Result<ExitCode, Diagnostic> {
    if arguments.code.is_none() && !arguments.codes {
        return explain_columns(&file.load().await?).await;
    }
    let areas = areas();
    match &arguments.code {
        Some(code) => {
            let explanation = find(&areas, code)?;
            output::result(explanation.page, &explanation)?;
        }
        None => output::result(list(&areas), &every(&areas).collect::<Vec<_>>())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints one line for each column.
async fn explain_columns(config: &Config) -> Result<ExitCode, Diagnostic> {
    let help = "users-sync check names what is wrong, with the remedy; `users-sync explain --codes` lists all codes";
    let found = columns(config).await.map_err(|error| diagnostic!(help = help, "{error}"))?;
    let text = found.iter().map(|columns| {
        let lines: String = columns.lines().iter().map(|line| format!("  {line}\n")).collect();
        format!("{}:\n{lines}", columns.of)
    });
    output::result(text.collect::<String>(), &found)?;
    Ok(ExitCode::SUCCESS)
}

fn every(areas: &[Area]) -> impl Iterator<Item = Explanation> {
    areas.iter().flat_map(|area| area.explanations.iter().copied())
}

/// The explanation of a code.
///
/// # Errors
/// There is no such code. Names the nearest one.
fn find(areas: &[Area], code: &str) -> Result<Explanation, Diagnostic> {
    if let Some(explanation) = every(areas).find(|explanation| explanation.code == code) {
        return Ok(explanation);
    }
    let wanted = code.trim().to_lowercase().replace(['-', ' '], "_");
    let similarity = |explanation: &Explanation| strsim::jaro_winkler(explanation.code, &wanted);
    let nearest = every(areas).max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    let nearest = nearest.map_or_else(String::new, |nearest| format!("did you mean {}? ", nearest.code));
    Err(diagnostic!(help = format!("{nearest}`users-sync explain --codes` lists all codes"), "there is no code {code}"))
}

/// Every code with its text, below the title of its area.
fn list(areas: &[Area]) -> String {
    let width = every(areas).map(|explanation| explanation.code.len()).max().unwrap_or_default();
    let area = |area: &Area| {
        let codes = area.explanations.iter().map(|Explanation { code, text, .. }| format!("  {code:width$}  {text}\n"));
        format!("{}:\n{}\n", area.title, codes.collect::<String>())
    };
    let areas: String = areas.iter().map(area).collect();
    areas + "`users-sync explain CODE` prints the cause of one, how to confirm it, and its remedy."
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::CommandFactory;
    use clap::error::ErrorKind;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// The lines of a page's code blocks of a language.
    fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
        let fence = format!("```{language}\n");
        let blocks = page.split(&*fence).skip(1).map(|rest| rest.split_once("```").unwrap().0);
        blocks.flat_map(str::lines).collect()
    }

    #[test]
    fn each_code_has_a_page_with_its_text_and_four_parts() {
        for Explanation { code, text, page } in every(&areas()) {
            let rest = page.strip_prefix(&*format!("# {code}\n\n{text}\n\n## Cause\n\n"));
            let rest = rest.unwrap_or_else(|| panic!("docs/errors/{code}.md does not begin with its code and text"));
            let (cause, rest) = rest.split_once("\n\n## Confirm\n\n").unwrap_or_else(|| panic!("{code}: no Confirm"));
            let (confirm, remedy) = rest.split_once("\n\n## Remedy\n\n").unwrap_or_else(|| panic!("{code}: no Remedy"));
            for part in [cause, confirm, remedy] {
                assert!(!part.trim().is_empty() && !part.contains("\n## "), "{code}: {part}");
            }
            assert!(confirm.contains("```"), "{code}: nothing confirms the cause");
            assert!(remedy.contains("```") || remedy.starts_with("Nothing"), "{code}: {remedy}");
            let other =
                page.lines().filter(|line| line.starts_with("```") && !["```", "```sql", "```sh"].contains(line));
            assert_eq!(other.collect::<Vec<_>>(), [""; 0], "{code}: only statements and commands are checked");
        }
    }

    #[test]
    fn no_page_is_without_a_code_and_the_index_has_each_of_them() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/errors");
        let files =
            std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let files: BTreeSet<String> = files.filter(|name| name != "README.md").collect();
        let areas = areas();
        assert_eq!(files, every(&areas).map(|explanation| format!("{}.md", explanation.code)).collect());
        let index = std::fs::read_to_string(directory.join("README.md")).unwrap();
        let tables = areas.iter().map(|area| {
            let rows = area
                .explanations
                .iter()
                .map(|Explanation { code, text, .. }| format!("| [{code}]({code}.md) | {text} |\n"));
            format!("## {}\n\n| code | text |\n| --- | --- |\n{}", area.title, rows.collect::<String>())
        });
        tables.for_each(|table| assert!(index.contains(&table), "docs/errors/README.md lacks\n{table}"));
    }

    #[test]
    fn the_commands_of_the_pages_are_complete() {
        for Explanation { code, page, .. } in every(&areas()) {
            for line in blocks(page, "sh") {
                assert!(line.starts_with("users-sync "), "{code}: {line}");
                let error = Cli::command().try_get_matches_from(line.split(' ')).err();
                let is_usage = error
                    .is_some_and(|error| !matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion));
                assert!(!is_usage, "{code}: {line}");
            }
        }
    }

    #[test]
    fn an_unknown_code_names_the_nearest_one() {
        let areas = areas();
        assert_eq!(find(&areas, "slot_gone").unwrap().text, "no longer exists");
        for (unknown, nearest) in [("slot_gnoe", "slot_gone"), ("Source-Login", "source_login"), ("logn", "login")] {
            let error = find(&areas, unknown).unwrap_err().render(false);
            assert!(error.contains(unknown), "{error}");
            assert!(error.contains(&format!("did you mean {nearest}?")), "{error}");
        }
    }

    #[test]
    fn the_list_has_every_code_with_its_text() {
        let (areas, list) = (areas(), list(&areas()));
        for Explanation { code, text, .. } in every(&areas) {
            let is_line = |line: &str| line.trim().strip_prefix(code).is_some_and(|rest| rest.trim() == text);
            assert!(list.lines().any(is_line), "{code}");
        }
    }
}
