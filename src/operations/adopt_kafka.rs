//! Takes over topics of Kafka that another installation has written to, once it no longer runs.

use crate::capture::slot::identify_system;
use crate::capture::{CaptureError, ReplicationConnection};
use crate::clock::now;
use crate::config::{Config, Kafka, Topics, TopicsError};
use crate::model::{ByConfigured, TenantId, TopicTrouble};
use crate::state::{Snapshot, TeePublished};
use crate::tee::kafka::{Failure, blocking, claims, ensure_topics, existing_topics, look, take_over};
use crate::tee::{Claims, Own, Owner, Writer};

/// Why topics cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeoverError {
    #[error(transparent)]
    Kafka(#[from] Failure),
    #[error("{0}")]
    Topics(#[from] TopicsError),
    #[error("cannot read the source: {0}")]
    Source(#[from] CaptureError),
    #[error("the state has no installation yet")]
    NoInstallation,
    #[error("another installation may still publish: {}{}", .0.what, .0.age())]
    Running(Writer),
}

/// What another installation has written.
pub(crate) struct Strange {
    /// Why `run` publishes nothing.
    pub(crate) why: String,
    pub(crate) writers: Vec<Writer>,
}

/// An installation that takes topics over.
#[derive(Clone)]
pub(crate) struct Takeover {
    kafka: Kafka,
    owner: Owner,
    /// System identifier of the source.
    system: String,
    published: Option<TeePublished>,
    /// Each tenant with its topic.
    tenants: Vec<(TenantId, String)>,
    /// Without duplicates.
    topics: Vec<String>,
}

impl Takeover {
    /// `known`: the state.
    pub(crate) async fn new(config: &Config, kafka: &Kafka, known: &Snapshot) -> Result<Takeover, TakeoverError> {
        let key = known.key.as_ref().ok_or(TakeoverError::NoInstallation)?;
        let ids: ByConfigured<&TenantId> = config.tenants.iter().map(|tenant| &tenant.id).collect();
        let topics = Topics::new(&kafka.topic, &config.users.table, ids.values().copied())?;
        let mut connection = ReplicationConnection::connect(&config.source.url).await?;
        let tenants = ids.iter().map(|(index, id)| ((*id).clone(), topics.of(index).to_owned()));
        Ok(Takeover {
            owner: Owner::new(&kafka.slot, key),
            system: identify_system(&mut connection).await?.system_identifier,
            published: known.tee.as_ref().and_then(|tee| tee.published.clone()),
            tenants: tenants.collect(),
            topics: topics.distinct().into_iter().map(str::to_owned).collect(),
            kafka: kafka.clone(),
        })
    }

    /// The topics that are taken over.
    pub(crate) fn topics(&self) -> &[String] {
        &self.topics
    }

    /// Looks without changing anything. `None`: nothing belongs to another installation.
    pub(crate) async fn look(&self) -> Result<Option<Strange>, TakeoverError> {
        let its = self.clone();
        let found = blocking(move || {
            its.with(|own| match look(&its.kafka, own) {
                Ok(_) => Ok(None),
                Err(Failure { what, code: Some(TopicTrouble::Foreign), .. }) => Ok(Some((what, its.claims(own)?))),
                Err(failure) => Err(failure),
            })
        });
        let Some((why, claims)) = found.await? else { return Ok(None) };
        let writers = self.with(|own| claims.writers(own, now().unix_millis_floor().unwrap_or_default()));
        refuse_running(writers).map(|writers| Some(Strange { why, writers }))
    }

    /// Records that the topics are this installation's.
    pub(crate) async fn take_over(&self) -> Result<(), TakeoverError> {
        let settings = self.kafka.clone();
        let there = blocking(move || existing_topics(&settings)).await?;
        // Only the positions topic: the next session creates the others.
        ensure_topics(&self.kafka, &there, &[]).await?;
        let its = self.clone();
        let done = blocking(move || {
            Ok(its.with(|own| {
                take_over(&its.kafka, || {
                    // Again: it may have begun meanwhile.
                    let claims = its.claims(own)?;
                    refuse_running(claims.writers(own, now().unix_millis_floor().unwrap_or_default()))?;
                    let tenants: Vec<(&TenantId, &str)> =
                        its.tenants.iter().map(|(tenant, topic)| (tenant, &**topic)).collect();
                    Ok(claims.take_over(own, &tenants))
                })
            }))
        });
        done.await?
    }

    fn claims(&self, own: &Own<'_>) -> Result<Claims, Failure> {
        claims(&self.kafka, own)
    }

    fn with<T>(&self, work: impl FnOnce(&Own<'_>) -> T) -> T {
        let topics: Vec<&str> = self.topics.iter().map(|topic| &**topic).collect();
        let Takeover { owner, system, published, .. } = self;
        work(&Own { owner, system, published: published.as_ref(), topics: &topics })
    }
}

fn refuse_running(writers: Vec<Writer>) -> Result<Vec<Writer>, TakeoverError> {
    let (running, silent): (Vec<Writer>, Vec<Writer>) = writers.into_iter().partition(|writer| writer.may_run);
    running.into_iter().next().map_or(Ok(silent), |writer| Err(TakeoverError::Running(writer)))
}
