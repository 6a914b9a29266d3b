//! Who someone is and what they may do.
//!
//! An [`Authenticator`] turns a name and a password into an [`Identity`], and [`Tokens`] do the same with a bearer token
//! that they have given out before; a [`Policy`] turns an identity and a repository into a permit ([`PullPermit`],
//! [`PushPermit`], [`DeletePermit`]) or a [`Refusal`]. Permits have private fields and are made nowhere else, so an
//! operation that demands one cannot be reached without it.
//!
//! Nothing here knows of HTTP or of where repositories are stored: whoever asks says who owns the repository.

mod authenticator;
mod authorities;
mod bearer;
mod directory;
mod htpasswd;
mod identity;
mod key_file;
mod members;
mod patterns;
mod permit;
mod policy;
mod provider;
mod scope;
mod secret;
mod throttle;

pub use authenticator::{Accounts, Admitted, AuthenticationError, Authenticator, Source, Voucher};
pub use authorities::{Authorities, AuthoritiesError};
pub use bearer::{BadToken, Bearer, IssueError, Issued, KeyError, MAX_LIFETIME, MAX_TOKEN_LENGTH, Tokens};
pub use directory::{
    Directory, DirectoryError, DirectorySettings, DirectorySettingsError, DirectoryUrl, DnTemplate, Filter,
    GroupSearch, Groups, People, Service, ServicePassword, Transport,
};
pub use htpasswd::{Htpasswd, HtpasswdError, HtpasswdProblem, MAX_PASSWORD_LENGTH};
pub use identity::{GroupError, GroupName, Identity, Proof};
pub use key_file::write_key;
pub use members::{Members, Others};
pub use patterns::Patterns;
pub use permit::{DeletePermit, ProjectPermit, PullPermit, PushPermit, RunControl, RunPermit};
pub use policy::{
    Access, Charged, Plain, Policy, Project, Quota, Reach, Refusal, Rerun, Sample, Standing, Visibility,
};
pub use provider::{Attempt, Attempts, IdTokenError, Issuer, IssuerError, Known, ProviderSettings};
pub use scope::{Action, Grant, Scope, ScopeError, Wish};
pub use secret::{Secret, SecretHash, TokenId, TokenIdError};
pub use torno_oci::{PersonError, ProjectName, UserName};
