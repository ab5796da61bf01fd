//! `adopt --kafka`: takes over topics that another installation has written to, after a question.

use super::common::{FAILED, connect_state};
use super::confirm::confirm;
use super::output;
use crate::cli::exit::ExitCode;
use crate::config::Config;
use crate::diagnostic::{Diagnostic, diagnostic};
use crate::operations::adopt_kafka::{Strange, Takeover, TakeoverError};
use crate::state::StateStore;
use crate::tee::SILENT_AFTER;

/// Writers that are printed, at most.
const PRINTED: usize = 20;

pub(super) async fn execute(config: &Config, is_confirmed: bool) -> Result<ExitCode, Diagnostic> {
    let Some(kafka) = &config.kafka else {
        return Err(diagnostic!(
            help = "omit --kafka, or add a `kafka` section",
            "the configuration has no `kafka` section"
        ));
    };
    let state = connect_state(config).await?;
    let known = StateStore::read(&state, &config.source.slot).await;
    let known = known.map_err(|error| diagnostic!("cannot read the state: {error}"))?;
    state.close().await;
    let takeover = Takeover::new(config, kafka, &known).await.map_err(refused)?;
    let Some(Strange { why, writers }) = takeover.look().await.map_err(refused)? else {
        output::line("nothing to adopt: topics and positions belong to this installation");
        return Ok(ExitCode::SUCCESS);
    };
    output::line(why);
    for writer in writers.iter().take(PRINTED) {
        output::line(format_args!("  {}{}", writer.what, writer.age()));
    }
    if let Some(more @ 1..) = writers.len().checked_sub(PRINTED) {
        output::line(format_args!("  and {more} more"));
    }
    let topics = takeover.topics().len();
    output::line(format_args!(
        "This takes over {topics} {} and the positions of slot {} in {}. `run` then publishes every user again, and a delete for \
         users who are gone at the source. The installation above is refused if it starts again.",
        if topics == 1 { "topic" } else { "topics" },
        kafka.slot,
        kafka.positions_topic
    ));
    if !is_confirmed && !confirm("Take them over?")? {
        output::line("nothing was changed");
        return Ok(ExitCode::from(FAILED));
    }
    takeover.take_over().await.map_err(refused)?;
    output::line("adopted: a running process publishes every user within seconds, otherwise the next `run` does");
    Ok(ExitCode::SUCCESS)
}

fn refused(error: TakeoverError) -> Diagnostic {
    match &error {
        TakeoverError::Running(_) => diagnostic!(
            help = format!(
                "stop its process; one that did not stop cleanly counts as running for {} s\nor leave it alone: give this \
                 installation names of its own (kafka.topic, kafka.positions_topic, source.slot)",
                SILENT_AFTER.as_secs()
            ),
            "nothing was changed: {error}"
        ),
        TakeoverError::NoInstallation => diagnostic!(
            help = "start users-sync run -c FILE: it publishes nothing to topics of another installation; then run this again",
            "nothing was changed: {error}"
        ),
        TakeoverError::Kafka(failure) => diagnostic!(
            help = failure.remedy.unwrap_or("users-sync check -c FILE"),
            "nothing was changed: {}",
            failure.what
        ),
        TakeoverError::Topics(_) | TakeoverError::Source(_) => {
            diagnostic!(help = "users-sync check -c FILE", "nothing was changed: {error}")
        }
    }
}
