//! Invites people: the first administrator at `up`, others by `stamp user add`.

use api::{
    client::Client,
    identity::{User, UserAnswer, UserGroups, UserRequest},
};
use model::{Kind, ResourceId};

use crate::{Error, apply::Scene, layout::Layout, stamp::Ground};

/// The first administrator's address, until there is a person behind it.
pub const FIRST_ADMIN: &str = "admin@localhost";
/// The fact under which the journal keeps the first administrator's link.
pub const LINK: &str = "admin-link";

/// Makes a person, or a new first-sign-in link for one.
pub async fn invite(layout: &Layout, identity: &ResourceId, request: &UserRequest) -> Result<UserAnswer, Error> {
    Client::unix(layout.control(&identity.to_string())).post("/admin/users", request).await.map_err(|source| {
        Error::Role {
            resource: identity.to_string(),
            what: format!("invite {}", request.email),
            source: Box::new(source),
        }
    })
}

/// Puts a person in exactly `groups`.
pub async fn set_groups(
    layout: &Layout,
    identity: &ResourceId,
    email: &str,
    groups: Vec<String>,
) -> Result<User, Error> {
    let wanted = UserGroups { email: email.to_owned(), groups };
    let answer = Client::unix(layout.control(&identity.to_string())).post("/admin/groups", &wanted).await;
    answer.map_err(|source| Error::Role {
        resource: identity.to_string(),
        what: format!("change the groups of {email}"),
        source: Box::new(source),
    })
}

/// The first administrator's link, while nobody has used it; once used, it is forgotten here too.
pub async fn unused_link(ground: &Ground, scene: &Scene) -> Result<Option<String>, Error> {
    let (system, stamp) = (&scene.row.system, &scene.row.stamp);
    let Some(link) = ground.journal.fact(system, stamp, LINK)? else { return Ok(None) };
    let Some(identity) = scene.system.resources.keys().find(|id| id.kind == Kind::Identity) else { return Ok(None) };
    let people: Vec<User> =
        Client::unix(scene.layout.control(&identity.to_string())).get("/admin/users").await.map_err(|source| {
            Error::Role { resource: identity.to_string(), what: "list its people".into(), source: Box::new(source) }
        })?;
    if people.iter().any(|p| p.email == FIRST_ADMIN && p.has_password) {
        ground.journal.drop_fact(system, stamp, LINK)?;
        return Ok(None);
    }
    Ok(Some(link))
}
