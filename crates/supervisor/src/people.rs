//! Invites people: the first administrator at `up`, others by `stamp user add`.

use api::{
    client::Client,
    identity::{UserAnswer, UserRequest},
};
use model::ResourceId;

use crate::{Error, layout::Layout};

/// The first administrator's address, until there is a person behind it.
pub const FIRST_ADMIN: &str = "admin@localhost";

/// Makes a person, or a new first-sign-in link for one.
pub async fn invite(layout: &Layout, identity: &ResourceId, request: &UserRequest) -> Result<UserAnswer, Error> {
    Client::unix(layout.control(&identity.to_string()))
        .post("/admin/users", request)
        .await
        .map_err(|source| Error::Role { resource: identity.to_string(), what: format!("invite {}", request.email), source })
}
