//! From what a request brings to who asks: a name with a password or a kept token, or a bearer token.

use http::HeaderMap;
use torno_auth::{Accounts, Admitted, Identity, Proof, Secret, Source, UserName, Voucher};
use torno_registry::{Holder, TokenAccount};

use crate::{
    connection::Client,
    credentials::{Authorization, authorization},
    failure::Failure,
    provider,
    public::Public,
    record::Asking,
};

/// Who asks, and what must go on to stand behind their password for what they are given.
pub(crate) struct Login {
    pub(crate) who: Identity,
    /// Where they are known from.
    pub(crate) account: TokenAccount,
    pub(crate) voucher: Option<Voucher>,
}

impl Login {
    /// Nobody in particular.
    pub(crate) fn anonymous() -> Self {
        Self { who: Identity::anonymous(), account: TokenAccount::File, voucher: None }
    }
}

/// Who makes a request. What it brings itself is meant; a certificate came with the connection. Whoever brings nothing
/// is nobody in particular.
pub(crate) async fn identify(
    public: &Public,
    headers: &HeaderMap,
    client: &Client,
    asking: &mut Asking,
) -> Result<Identity, Failure> {
    let who = match authorization(headers)? {
        None => with_certificate(public, headers, client)?,
        Some(Authorization::Basic { user, password }) => {
            match shown(public, &user, &password, client, asking).await? {
                Shown::Kept(login) => login.who,
                Shown::Password(admitted) => admitted.who,
            }
        }
        Some(Authorization::Bearer(token)) => with_bearer(public, &token).await?,
    };
    asking.is(&who);
    Ok(who)
}

/// Somebody whose certificate names them. They must be a user: whoever is removed is out, whatever certificates they
/// still have. One that names nobody, or a machine, is as good as none.
fn with_certificate(public: &Public, headers: &HeaderMap, client: &Client) -> Result<Identity, Failure> {
    let Some(name) = client.certified(headers) else { return Ok(Identity::anonymous()) };
    let is_user = public.authenticator.voucher(name)?.is_some();
    if is_user && !public.registry.policy().robots.contains(name) {
        Ok(Identity::of(name.clone()).proven_by(Proof::Certificate))
    } else {
        Ok(Identity::anonymous())
    }
}

/// What somebody has shown beside their name.
enum Shown {
    /// A token that is kept.
    Kept(Login),
    /// Their password.
    Password(Admitted),
}

/// Somebody who sends a name with a password, or with a token in its place, and wants to be given something that must
/// end with it.
pub(crate) async fn with_password(
    public: &Public,
    user: &str,
    password: &str,
    client: &Client,
    asking: &mut Asking,
) -> Result<Login, Failure> {
    let Admitted { who, source } = match shown(public, user, password, client, asking).await? {
        Shown::Kept(login) => return Ok(login),
        Shown::Password(admitted) => admitted,
    };
    let (account, voucher) = match (source, who.name()) {
        (Source::File, Some(name)) => (TokenAccount::File, public.authenticator.voucher(name)?),
        (Source::File, None) => return Err(Failure::Secret),
        (Source::Directory, _) => (TokenAccount::Directory, None),
    };
    Ok(Login { who, account, voucher })
}

/// Every request with a name comes by here, so it does no more than it must.
async fn shown(
    public: &Public,
    user: &str,
    password: &str,
    client: &Client,
    asking: &mut Asking,
) -> Result<Shown, Failure> {
    let shown = match Secret::parse(password) {
        Some(secret) => with_secret_of(public, user, &secret).await.map(Shown::Kept),
        None => of_password(public, user, password, client).await.map(Shown::Password),
    };
    shown.inspect_err(|_| asking.claim(user))
}

/// A token is nobody else's.
async fn with_secret_of(public: &Public, user: &str, secret: &Secret) -> Result<Login, Failure> {
    let login = with_secret(public, secret).await?;
    match login.who.name() {
        Some(name) if name.as_str() == user => Ok(login),
        _ => Err(Failure::Secret),
    }
}

async fn of_password(
    public: &Public,
    user: &str,
    password: &str,
    client: &Client,
) -> Result<Admitted, Failure> {
    // A machine's name with a password would be somebody who writes to what is the machine's.
    let policy = public.registry.policy();
    let is_robot = |name: &UserName| policy.robots.contains(name);
    let accounts = if policy.robots.iter().any(|robot| robot.as_str() == user) {
        Accounts::FileOnly
    } else {
        Accounts::All
    };
    let admitted = public.authenticator.authenticate(user, password, client.address, accounts).await?;
    match admitted.who.name() {
        Some(name) if is_robot(name) => Err(Failure::Robot),
        Some(_) => Ok(admitted),
        None => Err(Failure::Secret),
    }
}

/// Somebody who sends a token that is kept.
pub(crate) async fn with_secret(public: &Public, secret: &Secret) -> Result<Login, Failure> {
    let holder = public.registry.holder(secret).await?.ok_or(Failure::Secret)?;
    let (account, voucher) = (holder.account, holder.voucher.clone());
    let who = standing(public, holder).await?.ok_or(Failure::Secret)?;
    Ok(Login { who, account, voucher })
}

async fn with_bearer(public: &Public, token: &str) -> Result<Identity, Failure> {
    let bearer = public.tokens.check(token).map_err(Failure::Bearer)?;
    let who = bearer.identity;
    // Robots come with tokens that are kept, which are looked at below: this is a person's.
    if who.proof() == &Proof::Password && is_robot(public, &who) {
        return Err(Failure::Bearer(torno_auth::BadToken));
    }
    if !vouched(public, &who, bearer.voucher.as_ref())? {
        return Err(Failure::Bearer(torno_auth::BadToken));
    }
    let stands = match (who.proof(), &bearer.voucher) {
        (Proof::Token(id), _) => match public.registry.holder_of(id).await? {
            Some(holder) => standing(public, holder).await?.map(|now| now.groups().clone()),
            None => None,
        },
        // A password that has no voucher is one of the directory's.
        (Proof::Password, None) => in_directory(public, &who).await?.map(|now| now.groups().clone()),
        _ => return Ok(who),
    };
    // They are as their groups are now.
    stands.map(|groups| who.in_groups(groups)).ok_or(Failure::Bearer(torno_auth::BadToken))
}

/// Whoever holds a token, as they are known now; `None` if they are not.
async fn standing(public: &Public, holder: Holder) -> Result<Option<Identity>, Failure> {
    let Holder { identity: who, account, voucher } = holder;
    let Some(name) = who.name() else { return Ok(None) };
    let known = match account {
        // A login of a person never goes on as a machine's that has the name now.
        TokenAccount::File => !is_robot(public, &who) && public.authenticator.voucher(name)?.is_some(),
        TokenAccount::Robot => is_robot(public, &who),
        TokenAccount::Directory => return in_directory(public, &who).await,
        TokenAccount::Provider => public.provider.is_some() && provider::is_free(public, name)?,
    };
    let stands = known && vouched(public, &who, voucher.as_ref())?;
    Ok(stands.then_some(who))
}

/// Somebody of the directory, in the groups that it names now; `None` if it knows them no longer, or if the name has
/// become somebody else's.
async fn in_directory(public: &Public, who: &Identity) -> Result<Option<Identity>, Failure> {
    let Some(name) = who.name() else { return Ok(None) };
    if is_robot(public, who) {
        return Ok(None);
    }
    let groups = public.authenticator.directory_groups(name).await?;
    Ok(groups.map(|groups| who.clone().in_groups(groups)))
}

/// Whether their name is a robot's now.
fn is_robot(public: &Public, who: &Identity) -> bool {
    who.name().is_some_and(|name| public.registry.policy().robots.contains(name))
}

/// Whether the password behind something is still the same.
fn vouched(public: &Public, who: &Identity, voucher: Option<&Voucher>) -> Result<bool, Failure> {
    match (voucher, who.name()) {
        (None, _) => Ok(true),
        (Some(voucher), Some(name)) => Ok(public.authenticator.voucher(name)?.as_ref() == Some(voucher)),
        (Some(_), None) => Ok(false),
    }
}
