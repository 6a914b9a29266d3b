//! Who someone is and what they may do.
//!
//! An [`Authenticator`] turns a name and a password into an [`Identity`]; a [`Policy`] turns an identity and a
//! repository into a permit ([`PullPermit`], [`PushPermit`], [`DeletePermit`]) or a [`Refusal`]. Permits have
//! private fields and are made nowhere else, so an operation that demands one cannot be reached without it.
//!
//! Nothing here knows of HTTP or of where repositories are stored: whoever asks says who owns the repository.

mod authenticator;
mod htpasswd;
mod identity;

mod policy;

pub use authenticator::{AuthenticationError, Authenticator};
pub use htpasswd::{Htpasswd, HtpasswdError, HtpasswdProblem, MAX_PASSWORD_LENGTH};
pub use identity::Identity;
pub use policy::{
    Charged, DeletePermit, Policy, Project, PullPermit, PushPermit, Quota, Reach, Refusal, Visibility,
};
pub use torno_oci::{PersonError, ProjectName, UserName};
