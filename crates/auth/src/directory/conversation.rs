//! One conversation with a directory over LDAP (RFC 4511). Nothing else here speaks it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ldap3::{
    Ldap, LdapConnAsync, LdapConnSettings, LdapError, ResultEntry, Scope, SearchEntry, SearchOptions,
};
use rustls::ClientConfig;
use tokio_util::task::AbortOnDropHandle;

use super::{
    Answer, DirectoryError, DirectorySettings, Person, Transport,
    settings::{People, first_name},
};
use crate::{GroupName, UserName};

/// How long a connection may take to stand.
const CONNECT: Duration = Duration::from_secs(3);

/// How long the directory may take for one answer.
const OPERATION: Duration = Duration::from_secs(5);

/// How long a whole conversation may take.
const CONVERSATION: Duration = Duration::from_secs(10);

/// Groups of one person that are looked at.
const MAX_GROUPS: usize = 1000;

/// Result codes (RFC 4511, appendix A.1).
const SUCCESS: u32 = 0;
const SIZE_LIMIT_EXCEEDED: u32 = 4;
const NO_SUCH_OBJECT: u32 = 32;

/// What a directory answers to a bind when it is the password, or the person, that will not do: wrong, without one,
/// locked, expired.
const NOT_THEM: [u32; 5] = [19, NO_SUCH_OBJECT, 48, 49, 53];

/// What is asked of a directory.
pub(super) struct Question {
    pub(super) user: UserName,
    /// Whether this is their password; `None`: only whether they are there.
    pub(super) password: Option<String>,
}

/// Asks it. Cancelled, the connection ends.
pub(super) async fn ask(
    settings: Arc<DirectorySettings>,
    tls: Arc<ClientConfig>,
    question: Question,
) -> Result<Answer, DirectoryError> {
    // The library takes some nonsense for impossible and panics: then it does so in a task of its own.
    let asking = tokio::spawn(async move {
        tokio::time::timeout(CONVERSATION, connected(&settings, tls, &question))
            .await
            .map_err(|_| DirectoryError::Slow)?
    });
    AbortOnDropHandle::new(asking).await.map_err(|_| DirectoryError::Nonsense)?
}

async fn connected(
    settings: &DirectorySettings,
    tls: Arc<ClientConfig>,
    question: &Question,
) -> Result<Answer, DirectoryError> {
    let starttls = settings.transport == Transport::Encrypted && !settings.url.speaks_tls();
    let how = LdapConnSettings::new().set_conn_timeout(CONNECT).set_starttls(starttls).set_config(tls);
    let (connection, ldap) = LdapConnAsync::from_url_with_settings(how, settings.url.url()).await?;
    // The connection ends when the conversation has dropped its side, and the conversation when the connection has.
    let conversation = Conversation { settings, ldap }.hold(question);
    let (answer, _) = tokio::join!(conversation, connection.drive());
    answer
}

struct Conversation<'a> {
    settings: &'a DirectorySettings,
    ldap: Ldap,
}

impl Conversation<'_> {
    async fn hold(mut self, question: &Question) -> Result<Answer, DirectoryError> {
        if self.settings.service.is_some() {
            self.become_service().await?;
        }
        let Some(entry) = self.find(&question.user).await? else { return Ok(Answer::Nobody) };
        let Some(name) = self.name(&entry, &question.user) else { return Ok(Answer::Nobody) };
        if let Some(password) = &question.password {
            if !self.is_password_of(&entry, password).await? {
                return Ok(Answer::Wrong);
            }
            // They may see less than Torno does.
            self.become_service().await?;
        }
        let groups = self.groups(&entry, &name).await?;
        Ok(Answer::Somebody(Person { name, groups }))
    }

    /// Logs in with Torno's own password, or as nobody.
    async fn become_service(&mut self) -> Result<(), DirectoryError> {
        let (dn, password) = match &self.settings.service {
            Some(service) => (service.dn.as_str(), service.password.expose()),
            None => ("", ""),
        };
        match self.ldap.with_timeout(OPERATION).simple_bind(dn, password).await?.rc {
            SUCCESS => Ok(()),
            code => Err(DirectoryError::Service(code)),
        }
    }

    /// The one entry of somebody.
    async fn find(&mut self, user: &UserName) -> Result<Option<SearchEntry>, DirectoryError> {
        let (base, scope, filter) = match &self.settings.people {
            People::Below(base, filter) => (base.clone(), Scope::Subtree, filter.filled(user.as_str(), "")),
            People::At(template) => (template.filled(user), Scope::Base, "(objectClass=*)".to_owned()),
        };
        let wanted: Vec<&str> =
            [Some(self.settings.name.as_str()), self.settings.groups.member_of.as_deref()]
                .into_iter()
                .flatten()
                .collect();
        let (found, code) = self.search(&base, scope, &filter, &wanted, 2).await?;
        match (code, &self.settings.people) {
            (SUCCESS | SIZE_LIMIT_EXCEEDED, _) | (NO_SUCH_OBJECT, People::At(_)) => {}
            (code, _) => return Err(DirectoryError::Search(code)),
        }
        let mut found = found.into_iter();
        match (found.next(), found.next()) {
            (Some(entry), None) => Ok(Some(entry)),
            (None, _) => Ok(None),
            (Some(_), Some(_)) => {
                tracing::warn!(%user, "the directory has several people of this name, so that none of them can log in");
                Ok(None)
            }
        }
    }

    /// What somebody is called. A directory may find them by another spelling, or by something else than their name;
    /// whatever was typed, only one name may own what is theirs.
    fn name(&self, entry: &SearchEntry, typed: &UserName) -> Option<UserName> {
        let name = match values(entry, &self.settings.name) {
            [name] => name.parse::<UserName>().ok(),
            _ => None,
        };
        match name {
            Some(name) if name.as_str().eq_ignore_ascii_case(typed.as_str()) => Some(name),
            _ => {
                let attribute = &self.settings.name;
                tracing::warn!(user = %typed, attribute, "the directory found somebody who has another name, or not one alone");
                None
            }
        }
    }

    async fn is_password_of(&mut self, entry: &SearchEntry, password: &str) -> Result<bool, DirectoryError> {
        // A directory takes a name without a password, and a password without a name, for nobody, whom it welcomes
        // (RFC 4513, section 5.1).
        if entry.dn.is_empty() || password.is_empty() {
            return Ok(false);
        }
        match self.ldap.with_timeout(OPERATION).simple_bind(&entry.dn, password).await?.rc {
            SUCCESS => Ok(true),
            code if NOT_THEM.contains(&code) => Ok(false),
            code => Err(DirectoryError::Login(code)),
        }
    }

    async fn groups(
        &mut self,
        entry: &SearchEntry,
        user: &UserName,
    ) -> Result<BTreeSet<GroupName>, DirectoryError> {
        let groups = &self.settings.groups;
        let mut names = BTreeSet::new();
        if let Some(attribute) = &groups.member_of {
            let own = values(entry, attribute).iter().take(MAX_GROUPS);
            names.extend(own.filter_map(|dn| groups.name(dn, first_name(dn))));
        }
        let Some(search) = &groups.search else { return Ok(names) };
        let filter = search.filter.filled(user.as_str(), &entry.dn);
        let wanted = [search.name.as_str()];
        let (found, code) = self.search(&search.base, Scope::Subtree, &filter, &wanted, MAX_GROUPS).await?;
        match code {
            SUCCESS => {}
            // Fewer groups are fewer rights.
            SIZE_LIMIT_EXCEEDED => {
                tracing::warn!(%user, "the directory names more groups than are looked at");
            }
            code => return Err(DirectoryError::Search(code)),
        }
        for group in &found {
            match values(group, &search.name) {
                [] => names.extend(groups.name(&group.dn, None)),
                some => names.extend(some.iter().filter_map(|name| groups.name(&group.dn, Some(name)))),
            }
        }
        Ok(names)
    }

    /// The first entries that fit, and the result code. Referrals are not followed.
    async fn search(
        &mut self,
        base: &str,
        scope: Scope,
        filter: &str,
        attributes: &[&str],
        limit: usize,
    ) -> Result<(Vec<SearchEntry>, u32), DirectoryError> {
        let size = i32::try_from(limit).unwrap_or(i32::MAX);
        let options = SearchOptions::new().sizelimit(size);
        let ldap = self.ldap.with_timeout(OPERATION).with_search_options(options);
        let mut stream = ldap.streaming_search(base, scope, filter, attributes).await?;
        let mut found = Vec::new();
        while let Some(entry) = stream.next().await? {
            if !is_entry(&entry) {
                continue;
            }
            // The directory was asked for no more.
            if found.len() == limit {
                return Ok((found, SIZE_LIMIT_EXCEEDED));
            }
            found.push(SearchEntry::construct(entry));
        }
        let code = stream.finish().await.rc;
        Ok((found, code))
    }
}

fn is_entry(entry: &ResultEntry) -> bool {
    !entry.is_ref() && !entry.is_intermediate()
}

/// The values of an attribute, whose name may be written in any case.
fn values<'e>(entry: &'e SearchEntry, attribute: &str) -> &'e [String] {
    let found = entry.attrs.iter().find(|(name, _)| name.eq_ignore_ascii_case(attribute));
    found.map(|(_, values)| values.as_slice()).unwrap_or_default()
}

impl From<LdapError> for DirectoryError {
    fn from(error: LdapError) -> Self {
        match error {
            LdapError::Timeout { .. } => Self::Slow,
            other => Self::Connection(Box::new(other)),
        }
    }
}
