//! The users that a batch leaves out, and those that it publishes again.

use crate::model::{ConfiguredIdx, WhyLeftOut};
use std::collections::{HashMap, HashSet};
use tokio::sync::oneshot;

/// A user of a tenant.
pub(crate) type TenantUser = (ConfiguredIdx, String);

/// What a batch changes about the users that are left out. The batch is committed once this is recorded.
pub(crate) struct LeftOut {
    /// Users who are left out from here on.
    pub(crate) aside: Vec<(TenantUser, WhyLeftOut)>,
    /// Users whose messages are published again.
    pub(crate) accepted: Vec<TenantUser>,
    pub(crate) recorded: oneshot::Sender<()>,
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

    /// A message of the user was published. Nothing to record, unless an earlier one was left out: `held`, or in this batch.
    pub(super) fn publish(&mut self, user: TenantUser, held: &HashSet<TenantUser>) {
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

    #[test]
    fn the_last_message_of_a_user_decides_whether_the_user_is_left_out() {
        let tenants: ByConfigured<()> = [()].into_iter().collect();
        let tenant = tenants.indexes().next().unwrap();
        let user = |name: &str| (tenant, name.to_owned());
        let why = || WhyLeftOut::TooLarge { bytes: 2, limit: 1 };
        let held = HashSet::from([user("held"), user("still")]);
        let mut outcomes = Outcomes::default();
        outcomes.publish(user("other"), &held);
        assert!(outcomes.is_empty());
        outcomes.publish(user("held"), &held);
        outcomes.leave_out(user("shrinks"), why());
        outcomes.publish(user("shrinks"), &held);
        outcomes.publish(user("still"), &held);
        outcomes.leave_out(user("still"), why());
        let (aside, mut accepted) = outcomes.split();
        accepted.sort_by(|a, b| a.1.cmp(&b.1));
        assert_eq!(aside, [(user("still"), why())]);
        assert_eq!(accepted, [user("held"), user("shrinks")]);
    }
}
