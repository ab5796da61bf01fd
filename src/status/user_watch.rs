//! Notifies waiters and listeners of users that were written to a target. Free of cost while there are none.

use crate::model::{TenantId, UserId};
use crate::sync::lock;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::{broadcast, watch};

/// Notifications that a listener may be behind. One that is further behind is woken without ids.
const LISTENER_CAPACITY: usize = 64;

/// The waiters and listeners of all tenants.
#[derive(Debug, Default)]
pub struct UserWatch {
    /// Number of waiters and listeners. Read for every batch, so that the lock is taken only if there are any.
    watchers: AtomicUsize,
    tenants: Mutex<HashMap<TenantId, TenantWatchers>>,
}

#[derive(Debug, Default)]
struct TenantWatchers {
    users: HashMap<UserId, watch::Sender<()>>,
    listeners: Option<broadcast::Sender<Arc<[UserId]>>>,
}

impl UserWatch {
    /// Registers a waiter. A caller that then does not find the user in the target is woken when the user arrives.
    pub fn wait_for(self: &Arc<Self>, tenant: &TenantId, user: &str) -> Waiter {
        self.watchers.fetch_add(1, Ordering::SeqCst);
        let mut tenants = self.lock();
        let users = &mut tenants.entry(tenant.clone()).or_default().users;
        let news = users.entry(user.into()).or_insert_with(|| watch::channel(()).0).subscribe();
        Waiter {
            news,
            registration: Registration { user_watch: self.clone(), tenant: tenant.clone(), user: Some(user.into()) },
        }
    }

    /// Registers a listener.
    pub fn listen(self: &Arc<Self>, tenant: &TenantId) -> Listener {
        self.watchers.fetch_add(1, Ordering::SeqCst);
        let mut tenants = self.lock();
        let listeners = &mut tenants.entry(tenant.clone()).or_default().listeners;
        let news = listeners.get_or_insert_with(|| broadcast::channel(LISTENER_CAPACITY).0).subscribe();
        Listener { news, registration: Registration { user_watch: self.clone(), tenant: tenant.clone(), user: None } }
    }

    /// Number of waiters and listeners.
    pub fn watchers(&self) -> usize {
        self.watchers.load(Ordering::SeqCst)
    }

    /// Wakes the waiters of these users of the tenant, which were just written, and its listeners.
    pub(crate) fn notify<'a>(&self, tenant: &TenantId, users: impl Iterator<Item = &'a UserId> + Clone) {
        if self.watchers() == 0 {
            return;
        }
        let tenants = self.lock();
        let Some(watchers) = tenants.get(tenant) else { return };
        if !watchers.users.is_empty() {
            users.clone().filter_map(|user| watchers.users.get(user)).for_each(|waiter| waiter.send_modify(|()| {}));
        }
        if let Some(listeners) = &watchers.listeners {
            // Fails if the last listener has just been dropped.
            let _ = listeners.send(users.cloned().collect());
        }
    }

    /// Too many of the tenant's users were written to track ids: wakes every waiter.
    pub(crate) fn notify_all(&self, tenant: &TenantId) {
        let tenants = self.lock();
        let Some(watchers) = tenants.get(tenant) else { return };
        watchers.users.values().for_each(|waiter| waiter.send_modify(|()| {}));
        if let Some(listeners) = &watchers.listeners {
            let _ = listeners.send(Arc::from([]));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, TenantWatchers>> {
        // Nothing panics inside that could leave a map half changed.
        lock(&self.tenants)
    }
}

/// Waits for one user.
#[derive(Debug)]
pub struct Waiter {
    news: watch::Receiver<()>,
    registration: Registration,
}

impl Waiter {
    /// Waits until the user is written.
    pub async fn arrived(&mut self) {
        // Cannot fail: the sender lives as long as the registration.
        let _ = self.news.changed().await;
    }

    /// The user's tenant.
    pub fn tenant(&self) -> &TenantId {
        &self.registration.tenant
    }
}

/// Is notified of every user of a tenant.
#[derive(Debug)]
pub struct Listener {
    news: broadcast::Receiver<Arc<[UserId]>>,
    registration: Registration,
}

impl Listener {
    /// Waits for the next write and returns its users; none if there were too many to track.
    pub async fn next_users(&mut self) -> Arc<[UserId]> {
        self.news.recv().await.unwrap_or_else(|_| Arc::from([]))
    }

    /// The users' tenant.
    pub fn tenant(&self) -> &TenantId {
        &self.registration.tenant
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
        // The receiver is dropped already: fields are dropped in the order of their declaration.
        let mut tenants = self.user_watch.lock();
        if let Some(watchers) = tenants.get_mut(&self.tenant) {
            match &self.user {
                Some(user) if watchers.users.get(user).is_some_and(|waiter| waiter.receiver_count() == 0) => {
                    watchers.users.remove(user);
                }
                Some(_) => {}
                None => {
                    watchers.listeners.take_if(|listeners| listeners.receiver_count() == 0);
                }
            }
            if watchers.users.is_empty() && watchers.listeners.is_none() {
                tenants.remove(&self.tenant);
            }
        }
        self.user_watch.watchers.fetch_sub(1, Ordering::SeqCst);
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
        user_watch.notify(&acme, [&u2].into_iter());
        assert!(waiters[0].arrived().now_or_never().is_none());
        user_watch.notify(&acme, [&u1].into_iter());
        assert!(waiters.iter_mut().all(|waiter| waiter.arrived().now_or_never().is_some()));
        assert!(other.arrived().now_or_never().is_none());
        assert_eq!(*listener.next_users().now_or_never().unwrap(), [u2]);
        assert_eq!(*listener.next_users().now_or_never().unwrap(), [u1]);
        user_watch.notify_all(&acme);
        assert!(waiters[0].arrived().now_or_never().is_some());
        assert!(listener.next_users().now_or_never().unwrap().is_empty());
        drop((waiters, other, listener));
        assert!(user_watch.lock().is_empty());
        assert_eq!(user_watch.watchers(), 0);
    }
}
