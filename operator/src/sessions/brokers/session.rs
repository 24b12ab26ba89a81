//! One task that keeps something connected, and all of these by their keys.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::reconcile::error::Error;

/// A reconcile waits this long for a connection that is being made for the first time.
const FIRST_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The client connects again by itself after short losses; longer ones are the session's.
const LOSS_GRACE: Duration = Duration::from_secs(10);
/// How often a session looks after its connections.
const CHECK_PERIOD: Duration = Duration::from_secs(1);
/// Between two attempts to connect: doubled with each failure, and up to half of it more, so that many sessions do not
/// come at once.
const MIN_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// What stays away is logged this often.
const LOG_PERIOD: Duration = Duration::from_secs(60);

/// What a session keeps.
pub(crate) trait Connected: Send + Sync + 'static {
    /// Whether all of its connections are there now.
    fn is_connected(&self) -> bool;
}

/// What a session is made for: another one takes its place when this changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Site {
    /// The root of trust.
    pub root: [u8; 32],
    /// The servers.
    pub addresses: Vec<String>,
    /// Those without most of which nothing is stored.
    pub voters: usize,
}

/// How far a session is.
enum Reach<T> {
    /// It has only just begun.
    Begun,
    /// There are connections, or were a moment ago.
    Reached(Arc<T>),
    /// There are none; why.
    Away(String),
}

impl<T> Clone for Reach<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Begun => Self::Begun,
            Self::Reached(reached) => Self::Reached(reached.clone()),
            Self::Away(why) => Self::Away(why.clone()),
        }
    }
}

/// Connections, kept by a task that ends with this.
struct Session<T> {
    site: Site,
    reach: watch::Receiver<Reach<T>>,
    hurry: Arc<Notify>,
    used: Instant,
    _task: AbortOnDropHandle<()>,
}

impl<T> Session<T> {
    fn reached(&self) -> Option<Arc<T>> {
        match &*self.reach.borrow() {
            Reach::Reached(reached) => Some(reached.clone()),
            Reach::Begun | Reach::Away(_) => None,
        }
    }
}

/// All sessions of a kind.
pub(super) struct Sessions<K, T> {
    sessions: Mutex<HashMap<K, Session<T>>>,
    news: Arc<Notify>,
    max: usize,
}

impl<K, T> Default for Sessions<K, T> {
    fn default() -> Self {
        Self::bounded(usize::MAX)
    }
}

impl<K, T> Sessions<K, T> {
    /// No more than this many at a time: the one that was not used for the longest time ends for another.
    pub(super) fn bounded(max: usize) -> Self {
        Self { sessions: Mutex::default(), news: Arc::default(), max }
    }
}

impl<K: Clone + Eq + Hash + Debug + Send + 'static, T: Connected> Sessions<K, T> {
    /// What is reached by `open`. Begins a session if there is none for this site.
    ///
    /// # Errors
    /// It cannot be reached now. The session keeps trying.
    pub(super) async fn get<F>(
        &self,
        key: &K,
        site: Site,
        open: impl Fn() -> F + Send + Sync + 'static,
    ) -> Result<Arc<T>, Error>
    where
        F: Future<Output = Result<T, String>> + Send + 'static,
    {
        let (mut reach, hurry) = self.session(key, site, open);
        let _ = timeout(FIRST_CONNECT_TIMEOUT, reach.wait_for(|reach| !matches!(reach, Reach::Begun))).await;
        let found = reach.borrow().clone();
        match found {
            Reach::Reached(reached) => Ok(reached),
            Reach::Begun => Err(Error::Broker("connecting".into())),
            Reach::Away(why) => {
                hurry.notify_one();
                Err(Error::Broker(why))
            }
        }
    }

    fn session<F>(
        &self,
        key: &K,
        site: Site,
        open: impl Fn() -> F + Send + Sync + 'static,
    ) -> (watch::Receiver<Reach<T>>, Arc<Notify>)
    where
        F: Future<Output = Result<T, String>> + Send + 'static,
    {
        let mut sessions = self.lock();
        if sessions.get(key).is_none_or(|session| session.site != site) {
            let (tell, reach) = watch::channel(Reach::Begun);
            let hurry = Arc::new(Notify::new());
            let keeper = Keeper { of: format!("{key:?}"), tell, hurry: hurry.clone(), news: self.news.clone() };
            let task = AbortOnDropHandle::new(tokio::spawn(keeper.run(open)));
            sessions.insert(key.clone(), Session { site, reach, hurry, used: Instant::now(), _task: task });
            make_room(&mut sessions, self.max, key);
        }
        match sessions.get_mut(key) {
            Some(session) => {
                session.used = Instant::now();
                (session.reach.clone(), session.hurry.clone())
            }
            // It is there: see above.
            None => (watch::channel(Reach::Begun).1, Arc::default()),
        }
    }

    /// Ends those that were not used for so long. Whoever has the connection keeps it until it is done.
    pub(super) fn end_idle(&self, idle: Duration) {
        self.lock().retain(|_, session| session.used.elapsed() < idle);
    }

    pub(super) fn known(&self, key: &K) -> Option<Arc<T>> {
        self.lock().get(key).and_then(Session::reached)
    }

    pub(super) fn reached(&self) -> HashMap<K, Arc<T>> {
        self.lock().iter().filter_map(|(key, session)| Some((key.clone(), session.reached()?))).collect()
    }

    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    pub(super) fn forget(&self, key: &K) {
        self.lock().remove(key);
    }

    pub(super) fn keep(&self, is_alive: impl Fn(&K) -> bool) {
        self.lock().retain(|key, _| is_alive(key));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Session<T>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task of a session.
struct Keeper<T> {
    of: String,
    tell: watch::Sender<Reach<T>>,
    /// Somebody saw a sign that it is worth to try now.
    hurry: Arc<Notify>,
    news: Arc<Notify>,
}

impl<T: Connected> Keeper<T> {
    async fn run<F>(self, open: impl Fn() -> F + Send)
    where
        F: Future<Output = Result<T, String>> + Send,
    {
        let (mut failures, mut logged) = (0, None::<Instant>);
        loop {
            match open().await {
                Ok(reached) => {
                    failures = 0;
                    let reached = Arc::new(reached);
                    self.tell(Reach::Reached(reached.clone()));
                    until_lost(&*reached).await;
                    self.tell(Reach::Away("the connection was lost: connecting again".into()));
                }
                Err(error) => {
                    failures += 1;
                    self.tell(Reach::Away(error.clone()));
                    if logged.is_none_or(|logged| logged.elapsed() >= LOG_PERIOD) {
                        tracing::warn!(of = self.of, failures, error, "the broker cannot be reached");
                        logged = Some(Instant::now());
                    }
                }
            }
            let pause = pause(failures, fastrand::f64());
            tokio::select! {
                () = sleep(pause) => {}
                () = async { sleep(MIN_PAUSE).await; self.hurry.notified().await } => {}
            }
        }
    }

    fn tell(&self, reach: Reach<T>) {
        self.tell.send_replace(reach);
        self.news.notify_one();
    }
}

/// Ends the sessions that were used last the longest time ago, but not this one.
fn make_room<K: Clone + Eq + Hash, T>(sessions: &mut HashMap<K, Session<T>>, max: usize, but: &K) {
    while sessions.len() > max {
        let others = sessions.iter().filter(|(key, _)| *key != but);
        let Some(oldest) = others.min_by_key(|(_, session)| session.used).map(|(key, _)| key.clone()) else { return };
        sessions.remove(&oldest);
    }
}

/// How long to wait after so many failures; `chance` is from 0 to 1.
fn pause(failures: u32, chance: f64) -> Duration {
    let doubled = MIN_PAUSE.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(16)));
    doubled.min(MAX_PAUSE).mul_f64(1.0 + chance / 2.0)
}

async fn until_lost(connected: &impl Connected) {
    let mut since = Instant::now();
    while since.elapsed() < LOSS_GRACE {
        sleep(CHECK_PERIOD).await;
        if connected.is_connected() {
            since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Something that is always there.
    struct There;

    impl Connected for There {
        fn is_connected(&self) -> bool {
            true
        }
    }

    async fn reach(sessions: &Sessions<&'static str, There>, key: &'static str) -> Arc<There> {
        let site = Site { root: [0; 32], addresses: Vec::new(), voters: 1 };
        sessions.get(&key, site, || async { Ok(There) }).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn of_bounded_sessions_the_one_that_was_used_longest_ago_ends_for_another() {
        let sessions = Sessions::bounded(2);
        let held = reach(&sessions, "a").await;
        for key in ["b", "a", "c"] {
            tokio::time::advance(Duration::from_secs(1)).await;
            reach(&sessions, key).await;
        }
        assert!(sessions.known(&"b").is_none() && sessions.known(&"c").is_some());
        assert!(Arc::ptr_eq(&held, &sessions.known(&"a").unwrap()), "it was used again, and is the same");
        tokio::time::advance(Duration::from_secs(9)).await;
        sessions.end_idle(Duration::from_secs(10));
        assert!(sessions.known(&"a").is_none(), "ten seconds ago");
        assert!(sessions.known(&"c").is_some(), "nine seconds ago");
    }

    #[test]
    fn pauses_grow_to_a_bound_and_are_not_all_the_same() {
        let half_seconds = |failures, chance| pause(failures, chance).as_millis() / 500;
        assert_eq!([0, 1, 2, 3, 4].map(|failures| half_seconds(failures, 0.0)), [1, 1, 2, 4, 8]);
        for failures in [7, 20, u32::MAX] {
            assert_eq!(pause(failures, 0.0), MAX_PAUSE);
            assert_eq!(pause(failures, 1.0), MAX_PAUSE * 3 / 2);
        }
    }
}
