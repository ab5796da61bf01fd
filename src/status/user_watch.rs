//! Notifies waiters and listeners of users that arrive in a target. Costs nothing without any.

use crate::model::{TenantId, UserId};
use crate::sync::lock;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::{broadcast, watch};

/// Batches that a listener may be behind; it then hears that it has missed some.
const BEHIND: usize = 64;

/// Of all tenants.
#[derive(Debug, Default)]
pub struct UserWatch {
    /// Waiters and listeners: looked at for every batch.
    interested: AtomicUsize,
    tenants: Mutex<HashMap<TenantId, Interested>>,
}

#[derive(Debug, Default)]
struct Interested {
    users: HashMap<UserId, watch::Sender<()>>,
    listeners: Option<broadcast::Sender<Arc<[UserId]>>>,
}

impl UserWatch {
    /// Registers a waiter. A caller that then does not find the user in the target is woken when the user arrives.
    pub fn wait_for(self: &Arc<Self>, tenant: &TenantId, user: &str) -> Waiter {
        self.interested.fetch_add(1, Ordering::SeqCst);
        let mut tenants = self.lock();
        let users = &mut tenants.entry(tenant.clone()).or_default().users;
        let news = users.entry(user.into()).or_insert_with(|| watch::channel(()).0).subscribe();
        Waiter {
            news,
            place: Registration { user_watch: self.clone(), tenant: tenant.clone(), user: Some(user.into()) },
        }
    }

    /// Registers a listener.
    pub fn listen(self: &Arc<Self>, tenant: &TenantId) -> Listener {
        self.interested.fetch_add(1, Ordering::SeqCst);
        let mut tenants = self.lock();
        let listeners = &mut tenants.entry(tenant.clone()).or_default().listeners;
        let news = listeners.get_or_insert_with(|| broadcast::channel(BEHIND).0).subscribe();
        Listener { news, place: Registration { user_watch: self.clone(), tenant: tenant.clone(), user: None } }
    }

    /// How many wait or listen.
    pub fn waiting(&self) -> usize {
        self.interested.load(Ordering::SeqCst)
    }

    /// These users of the tenant were written just now.
    pub(crate) fn arrived<'a>(&self, tenant: &TenantId, users: impl Iterator<Item = &'a UserId> + Clone) {
        if self.waiting() == 0 {
            return;
        }
        let tenants = self.lock();
        let Some(interested) = tenants.get(tenant) else { return };
        if !interested.users.is_empty() {
            users
                .clone()
                .filter_map(|user| interested.users.get(user))
                .for_each(|waiting| waiting.send_modify(|()| {}));
        }
        if let Some(listeners) = &interested.listeners {
            // It fails if the last listener has just been dropped.
            let _ = listeners.send(users.cloned().collect());
        }
    }

    /// Too many of the tenant's users were written to track ids: wakes every waiter.
    pub(crate) fn notify_all(&self, tenant: &TenantId) {
        let tenants = self.lock();
        let Some(interested) = tenants.get(tenant) else { return };
        interested.users.values().for_each(|waiting| waiting.send_modify(|()| {}));
        if let Some(listeners) = &interested.listeners {
            let _ = listeners.send(Arc::from([]));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, Interested>> {
        // Nothing panics inside that could leave a map half changed.
        lock(&self.tenants)
    }
}

/// Waits for one user.
#[derive(Debug)]
pub struct Waiter {
    news: watch::Receiver<()>,
    place: Registration,
}

impl Waiter {
    /// Until the user was written again.
    pub async fn arrival(&mut self) {
        // The sender is there as long as the place is.
        let _ = self.news.changed().await;
    }

    /// Whose user it is.
    pub fn tenant(&self) -> &TenantId {
        &self.place.tenant
    }
}

/// Hears of every user of a tenant.
#[derive(Debug)]
pub struct Listener {
    news: broadcast::Receiver<Arc<[UserId]>>,
    place: Registration,
}

impl Listener {
    /// The users that were written next; none where there were too many to name them.
    pub async fn user_watch(&mut self) -> Arc<[UserId]> {
        self.news.recv().await.unwrap_or_else(|_| Arc::from([]))
    }

    /// Whose users they are.
    pub fn tenant(&self) -> &TenantId {
        &self.place.tenant
    }
}

/// The registration of a waiter or listener, removed on drop.
#[derive(Debug)]
struct Registration {
    user_watch: Arc<UserWatch>,
    tenant: TenantId,
    user: Option<UserId>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        // The receiver has gone before: the fields of its owner are dropped in their order.
        let mut tenants = self.user_watch.lock();
        if let Some(interested) = tenants.get_mut(&self.tenant) {
            match &self.user {
                Some(user) if interested.users.get(user).is_some_and(|waiting| waiting.receiver_count() == 0) => {
                    interested.users.remove(user);
                }
                Some(_) => {}
                None => {
                    interested.listeners.take_if(|listeners| listeners.receiver_count() == 0);
                }
            }
            if interested.users.is_empty() && interested.listeners.is_none() {
                tenants.remove(&self.tenant);
            }
        }
        self.user_watch.interested.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn a_waiter_is_woken_by_its_own_user_and_is_removed_afterwards() {
        let user_watch = Arc::new(UserWatch::default());
        let (acme, globex) = (TenantId::new("acme"), TenantId::new("globex"));
        let mut waiters = [user_watch.wait_for(&acme, "u1"), user_watch.wait_for(&acme, "u1")];
        let mut other = user_watch.wait_for(&globex, "u1");
        let mut listener = user_watch.listen(&acme);
        let (u1, u2): (UserId, UserId) = ("u1".into(), "u2".into());
        user_watch.arrived(&acme, [&u2].into_iter());
        assert!(waiters[0].arrival().now_or_never().is_none());
        user_watch.arrived(&acme, [&u1].into_iter());
        assert!(waiters.iter_mut().all(|waiter| waiter.arrival().now_or_never().is_some()));
        assert!(other.arrival().now_or_never().is_none());
        assert_eq!(*listener.user_watch().now_or_never().unwrap(), [u2]);
        assert_eq!(*listener.user_watch().now_or_never().unwrap(), [u1]);
        user_watch.notify_all(&acme);
        assert!(waiters[0].arrival().now_or_never().is_some());
        assert!(listener.user_watch().now_or_never().unwrap().is_empty());
        drop((waiters, other, listener));
        assert!(user_watch.lock().is_empty());
        assert_eq!(user_watch.waiting(), 0);
    }
}
