//! The users that a batch leaves out, and those that it publishes again.

use super::failure::Failure;
use crate::model::{ConfiguredIdx, WhyLeftOut};
use std::collections::{HashMap, HashSet};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

/// A user of a tenant.
pub(crate) type TenantUser = (ConfiguredIdx, String);

/// What has to be recorded about the users that are left out. The publisher goes on once `recorded` is sent.
pub(crate) struct LeftOut {
    pub(crate) change: LeftOutChange,
    pub(crate) recorded: oneshot::Sender<()>,
}

/// What changes about the users that are left out.
pub(crate) enum LeftOutChange {
    /// A batch is about to be committed.
    Decided {
        /// Users who are left out from here on.
        aside: Vec<(TenantUser, WhyLeftOut)>,
        /// Users whose messages it publishes again.
        accepted: Vec<TenantUser>,
    },
    /// The messages of these users are published again.
    Committed(Vec<TenantUser>),
}

/// The users that are left out, as the publisher knows them.
pub(super) struct LeftOutUsers {
    held: HashSet<TenantUser>,
    /// Those that the open transaction publishes again.
    accepted: HashSet<TenantUser>,
    changes: mpsc::Sender<LeftOut>,
    runtime: Handle,
}

impl LeftOutUsers {
    pub(super) fn new(held: HashSet<TenantUser>, changes: mpsc::Sender<LeftOut>) -> LeftOutUsers {
        LeftOutUsers { held, accepted: HashSet::new(), changes, runtime: Handle::current() }
    }

    pub(super) fn has_any(&self) -> bool {
        !self.held.is_empty()
    }

    /// A message of the user was published.
    pub(super) fn publish(&self, outcomes: &mut Outcomes, user: TenantUser, is_tombstone: bool) {
        outcomes.publish(user, is_tombstone, &self.held);
    }

    /// Records what becomes of the users of a batch, before anything says that they are published. Blocks.
    pub(super) fn record(&mut self, outcomes: Outcomes) -> Result<(), Failure> {
        if outcomes.is_empty() {
            return Ok(());
        }
        let (aside, accepted) = outcomes.split();
        for (user, _) in &aside {
            self.held.insert(user.clone());
            self.accepted.remove(user);
        }
        self.accepted.extend(accepted.iter().cloned());
        self.tell(LeftOutChange::Decided { aside, accepted })
    }

    /// The transaction was aborted.
    pub(super) fn aborted(&mut self) {
        self.accepted.clear();
    }

    /// The transaction is committed: those of its users that were left out are published again. Blocks.
    pub(super) fn committed(&mut self) -> Result<(), Failure> {
        if self.accepted.is_empty() {
            return Ok(());
        }
        let accepted: Vec<TenantUser> = self.accepted.drain().collect();
        accepted.iter().for_each(|user| {
            self.held.remove(user);
        });
        self.tell(LeftOutChange::Committed(accepted))
    }

    fn tell(&self, change: LeftOutChange) -> Result<(), Failure> {
        let (recorded, answer) = oneshot::channel();
        let done = self.runtime.block_on(async {
            self.changes.send(LeftOut { change, recorded }).await.ok()?;
            answer.await.ok()
        });
        done.ok_or_else(|| Failure::plain("the users that are left out could not be recorded".to_owned()))
    }
}

/// What becomes of the users of a batch. The last message of a user decides. Pure.
#[derive(Debug, Default)]
pub(super) struct Outcomes(HashMap<TenantUser, Option<WhyLeftOut>>);

impl Outcomes {
    /// Whether no message was left out.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A message of the user was left out.
    pub(super) fn leave_out(&mut self, user: TenantUser, why: WhyLeftOut) {
        self.0.insert(user, Some(why));
    }

    /// A message of the user was published. Nothing to record, unless an earlier one was left out: `held`, or in this batch. A tombstone
    /// only follows the message of a delete.
    pub(super) fn publish(&mut self, user: TenantUser, is_tombstone: bool, held: &HashSet<TenantUser>) {
        if is_tombstone {
            return;
        }
        if held.contains(&user) || self.0.contains_key(&user) {
            self.0.insert(user, None);
        }
    }

    /// The users who are left out, and those who are published again.
    pub(super) fn split(self) -> (Vec<(TenantUser, WhyLeftOut)>, Vec<TenantUser>) {
        let (mut aside, mut accepted) = (Vec::new(), Vec::new());
        for (user, why) in self.0 {
            match why {
                Some(why) => aside.push((user, why)),
                None => accepted.push(user),
            }
        }
        (aside, accepted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ByConfigured;

    /// If the process ends before the commit, the user is still recorded as left out.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_user_is_published_again_only_once_the_transaction_is_committed() {
        let tenants: ByConfigured<()> = [()].into_iter().collect();
        let user = || (tenants.indexes().next().unwrap(), "held".to_owned());
        let (changes, mut told) = mpsc::channel(1);
        let mut users = LeftOutUsers::new(HashSet::from([user()]), changes);
        let publisher = tokio::task::spawn_blocking({
            let user = user();
            move || {
                let mut attempt = |ends: fn(&mut LeftOutUsers) -> Result<(), Failure>| {
                    let mut outcomes = Outcomes::default();
                    users.publish(&mut outcomes, user.clone(), false);
                    users.record(outcomes).unwrap();
                    ends(&mut users).unwrap();
                };
                attempt(|users| {
                    users.aborted();
                    Ok(())
                });
                attempt(LeftOutUsers::committed);
                users.has_any()
            }
        });
        let mut committed = Vec::new();
        while let Some(LeftOut { change, recorded }) = told.recv().await {
            committed.push(match change {
                LeftOutChange::Decided { aside, accepted } => {
                    assert_eq!((aside, accepted), (Vec::new(), vec![user()]));
                    false
                }
                LeftOutChange::Committed(users) => users == [user()],
            });
            recorded.send(()).unwrap();
        }
        assert_eq!((committed, publisher.await.unwrap()), (vec![false, false, true], false));
    }

    #[test]
    fn the_last_message_of_a_user_decides_whether_the_user_is_left_out() {
        let tenants: ByConfigured<()> = [()].into_iter().collect();
        let tenant = tenants.indexes().next().unwrap();
        let user = |name: &str| (tenant, name.to_owned());
        let why = || WhyLeftOut::TooLarge { bytes: 2, limit: 1 };
        let held = HashSet::from([user("held"), user("still")]);
        let mut outcomes = Outcomes::default();
        outcomes.publish(user("other"), false, &held);
        assert!(outcomes.is_empty());
        outcomes.publish(user("held"), false, &held);
        outcomes.leave_out(user("shrinks"), why());
        outcomes.publish(user("shrinks"), false, &held);
        outcomes.publish(user("still"), false, &held);
        outcomes.leave_out(user("still"), why());
        outcomes.publish(user("still"), true, &held);
        let (aside, mut accepted) = outcomes.split();
        accepted.sort_by(|a, b| a.1.cmp(&b.1));
        assert_eq!(aside, [(user("still"), why())]);
        assert_eq!(accepted, [user("held"), user("shrinks")]);
    }
}
