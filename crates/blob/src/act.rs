//! One request that may be done.

use std::sync::Arc;

use api::audit::{Event, Outcome};
use axum::http::HeaderMap;

use crate::{
    caller::Caller,
    conditions::Conditions,
    config::Settings,
    fields::{self, Query},
    operation::{Act, Target},
    refusal::Refusal,
    sas::Opened,
    store::Store,
};

/// Fields that ask for what is not provided: left out, they would be promises.
const UNPROVIDED: [(&str, &str); 9] = [
    ("x-ms-encryption-key", "a key of the client's own"),
    ("x-ms-encryption-scope", "an encryption scope"),
    ("x-ms-tags", "tags of blobs"),
    ("x-ms-structured-body", "a structured body"),
    ("x-ms-immutability-policy-until-date", "immutability of one blob (it is declared for its container)"),
    ("x-ms-legal-hold", "a legal hold"),
    ("x-ms-seal-blob", "sealing"),
    ("x-ms-copy-source-authorization", "a token for the source of a copy"),
    ("x-ms-expiry-option", "an expiry of one blob (`delete_after` is declared for its container)"),
];

pub struct Request<'a> {
    pub store: &'a Arc<Store>,
    pub settings: &'a Arc<Settings>,
    pub caller: &'a Caller,
    pub actor: &'a str,
    pub act: Act,
    pub target: &'a Target,
    pub query: &'a Query,
    pub headers: &'a HeaderMap,
    pub host: Option<&'a str>,
    pub client: &'a str,
    pub opened: Opened,
}

impl Request<'_> {
    /// The container that the request is about.
    pub fn container(&self) -> String {
        self.target.container.clone().unwrap_or_default()
    }

    /// The blob that the request is about.
    pub fn blob(&self) -> String {
        self.target.blob.clone().unwrap_or_default()
    }

    pub fn text(&self, name: &str) -> Result<Option<&str>, Refusal> {
        fields::text(self.headers, name)
    }

    /// The event of the act being done.
    pub fn event(&self) -> Event {
        self.store.event(self.actor, self.act.action(), &self.target.object(), Outcome::Ok, self.client)
    }

    /// The conditions of the request, with that of a right to make but not to change.
    pub fn conditions(&self) -> Result<Conditions, Refusal> {
        let conditions = Conditions::read(self.headers)?;
        Ok(if self.opened == Opened::OnlyNew { conditions.only_new() } else { conditions })
    }

    /// Refuses what asks for more than is provided.
    pub fn refuse_unprovided(&self) -> Result<(), Refusal> {
        match UNPROVIDED.iter().find(|(name, _)| self.headers.contains_key(*name)) {
            Some((name, what)) => Err(Refusal::not_here(&format!("{what} (`{name}`)"))),
            None => Ok(()),
        }
    }
}
