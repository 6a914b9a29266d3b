//! People whom a directory knows, asked for at a bounded cost.
//!
//! A directory may be slow or down. Whoever is asked for often is remembered for a while, and a directory that has just
//! failed is left in peace for a moment, so that requests do not wait for it one after another.

mod conversation;
mod settings;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustls::ClientConfig;
use tokio::sync::{OnceCell, Semaphore};

use crate::{AuthoritiesError, GroupName, UserName};
use conversation::Question;

pub use settings::{
    DirectorySettings, DirectorySettingsError, DirectoryUrl, DnTemplate, Filter, GroupSearch, Groups, People,
    Service, ServicePassword, Transport,
};

/// How long the last answer does while there is no other: a directory is restarted in that time.
const KEPT: Duration = Duration::from_mins(15);

/// How long a directory that has failed is not asked again.
const PEACE: Duration = Duration::from_secs(2);

/// People remembered at once; past it all are forgotten.
const MAX_REMEMBERED: usize = 10_000;

/// Conversations about logins that are kept. Logins by password have their own bound.
const CONVERSATIONS: usize = 4;

/// Why a directory has not answered.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It cannot be reached, or the connection broke.
    #[error("the directory cannot be reached")]
    Connection(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It took too long.
    #[error("the directory does not answer in time")]
    Slow,
    /// It failed a moment ago.
    #[error("the directory failed a moment ago and is not asked again yet")]
    Peace,
    /// It does not take Torno's own password.
    #[error("the directory refuses what Torno logs in to it with (result code {0})")]
    Service(u32),
    /// It refuses a search.
    #[error("the directory refuses a search (result code {0})")]
    Search(u32),
    /// It refuses somebody's login for another reason than the password.
    #[error("the directory refuses to check a password (result code {0})")]
    Login(u32),
    /// What it said cannot be understood.
    #[error("the directory has answered with nonsense")]
    Nonsense,
}

/// What a directory says of somebody.
enum Answer {
    /// It does not know them.
    Nobody,
    /// It does, and this is not their password.
    Wrong,
    /// It does, and it is; or no password was shown.
    Somebody(Person),
}

/// Somebody whom a directory knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Person {
    /// Their name as the directory has it.
    pub(crate) name: UserName,
    pub(crate) groups: BTreeSet<GroupName>,
}

/// Asks a directory.
#[derive(Debug)]
pub struct Directory {
    settings: Arc<DirectorySettings>,
    tls: Arc<ClientConfig>,
    conversations: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failed: Option<Instant>,
    people: HashMap<UserName, Seen>,
    /// Questions under way: many requests of one login ask once.
    asking: HashMap<UserName, Arc<OnceCell<Option<BTreeSet<GroupName>>>>>,
}

/// What was said of somebody, and when.
#[derive(Clone, Debug)]
struct Seen {
    /// `None`: the directory does not know them.
    groups: Option<BTreeSet<GroupName>>,
    at: Instant,
}

impl Directory {
    /// A directory that has not been asked yet.
    pub fn new(settings: DirectorySettings) -> Result<Self, AuthoritiesError> {
        let tls = Arc::new(settings.authorities.client()?);
        Ok(Self {
            settings: Arc::new(settings),
            tls,
            conversations: Semaphore::new(CONVERSATIONS),
            state: Mutex::default(),
        })
    }

    /// How long what it says is taken for true.
    pub(crate) fn recheck(&self) -> Duration {
        self.settings.recheck
    }

    /// Who logs in with this password; `None`: nobody. Cancelling it is harmless.
    pub(crate) async fn login(
        &self,
        user: &UserName,
        password: &str,
    ) -> Result<Option<Person>, DirectoryError> {
        let question = Question { user: user.clone(), password: Some(password.to_owned()) };
        match self.ask(question).await? {
            Answer::Somebody(person) => {
                self.note(&person.name, Some(person.groups.clone()));
                Ok(Some(person))
            }
            Answer::Nobody | Answer::Wrong => Ok(None),
        }
    }

    /// The groups of somebody whom the directory still knows by exactly this name; `None`: it does not. The answer is
    /// some minutes old at most, or older while the directory cannot be asked. Cancelling it is harmless.
    pub async fn groups(&self, user: &UserName) -> Result<Option<BTreeSet<GroupName>>, DirectoryError> {
        let seen = self.state().people.get(user).cloned();
        if let Some(seen) = &seen
            && seen.at.elapsed() < self.settings.recheck
        {
            return Ok(seen.groups.clone());
        }
        let cell = Arc::clone(self.state().asking.entry(user.clone()).or_default());
        let asked = cell.get_or_try_init(|| self.look_up(user)).await.cloned();
        self.state().asking.remove(user);
        match (asked, seen) {
            (Err(error), Some(seen)) if seen.at.elapsed() < KEPT => {
                tracing::debug!(%user, error = &error as &dyn std::error::Error, "the last answer must do");
                Ok(seen.groups)
            }
            (asked, _) => asked,
        }
    }

    async fn look_up(&self, user: &UserName) -> Result<Option<BTreeSet<GroupName>>, DirectoryError> {
        // Never closed.
        let _turn = self.conversations.acquire().await.map_err(|_| DirectoryError::Peace)?;
        let groups = match self.ask(Question { user: user.clone(), password: None }).await? {
            // Another spelling is no name of theirs.
            Answer::Somebody(person) if person.name == *user => Some(person.groups),
            Answer::Somebody(_) | Answer::Nobody | Answer::Wrong => None,
        };
        self.note(user, groups.clone());
        Ok(groups)
    }

    async fn ask(&self, question: Question) -> Result<Answer, DirectoryError> {
        if self.state().failed.is_some_and(|at| at.elapsed() < PEACE) {
            return Err(DirectoryError::Peace);
        }
        let answer = conversation::ask(Arc::clone(&self.settings), Arc::clone(&self.tls), question).await;
        // A login that is refused for a reason of its own says nothing of others.
        let failed = matches!(&answer, Err(error) if !matches!(error, DirectoryError::Login(_)));
        let mut state = self.state();
        match (failed, state.failed.is_some()) {
            (true, before) => {
                state.failed = Some(Instant::now());
                if let (false, Err(error)) = (before, &answer) {
                    let error = error as &dyn std::error::Error;
                    tracing::warn!(error, directory = %self.settings.url, "the directory cannot be asked");
                }
            }
            (false, true) => {
                state.failed = None;
                tracing::info!(directory = %self.settings.url, "the directory can be asked again");
            }
            (false, false) => {}
        }
        answer
    }

    fn note(&self, user: &UserName, groups: Option<BTreeSet<GroupName>>) {
        let mut state = self.state();
        if state.people.len() >= MAX_REMEMBERED {
            state.people.clear();
        }
        state.people.insert(user.clone(), Seen { groups, at: Instant::now() });
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;
    use crate::Authorities;

    /// One that cannot be reached: nobody listens on its port.
    fn down() -> Directory {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        let url = format!("ldap://{}", free.expect("a port"));
        let settings = DirectorySettings {
            url: url.parse().expect("an address"),
            transport: Transport::Clear,
            authorities: Authorities::of_this_machine(),
            service: None,
            people: People::At("uid={user},dc=example,dc=org".parse().expect("a DN")),
            name: "uid".into(),
            groups: Groups::default(),
            recheck: Duration::from_mins(2),
        };
        Directory::new(settings).expect("directory")
    }

    #[tokio::test]
    async fn the_last_answer_does_for_a_while() {
        let directory = down();
        let ada: UserName = "ada".parse().expect("name");
        let groups = || Some(BTreeSet::from(["staff".parse().expect("group")]));
        let seen = |age: Duration| {
            let at = Instant::now().checked_sub(age).expect("this machine has run for longer");
            directory.state().people.insert(ada.clone(), Seen { groups: groups(), at });
        };
        assert!(matches!(directory.groups(&ada).await, Err(DirectoryError::Connection(_))));
        for age in [Duration::ZERO, Duration::from_mins(3), KEPT * 9 / 10] {
            seen(age);
            assert_eq!(directory.groups(&ada).await.expect("the last answer"), groups(), "{age:?}");
        }
        seen(KEPT);
        assert!(directory.groups(&ada).await.is_err(), "too old");
    }

    #[tokio::test]
    async fn one_that_has_just_failed_is_left_in_peace() {
        let directory = down();
        let ada: UserName = "ada".parse().expect("name");
        assert!(matches!(directory.login(&ada, "x").await, Err(DirectoryError::Connection(_))));
        assert!(matches!(directory.login(&ada, "x").await, Err(DirectoryError::Peace)));
        directory.state().failed = Instant::now().checked_sub(PEACE);
        assert!(matches!(directory.login(&ada, "x").await, Err(DirectoryError::Connection(_))));
    }
}
