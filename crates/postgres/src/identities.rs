//! Roles that sign in by identity: who they are, where they may come from, and the judge of their tokens.
//!
//! Such a role has no password, not even a verifier of one. PostgreSQL asks by RADIUS on loopback whether what the role was given
//! is good, and the answer is this file's: a token of the stamp's identity, of the very workload that the role belongs to, not
//! expired. Which workload that is lies in the role's comment, so that it goes with the data to a standby and into a backup.
//! Nobody who judges, nobody in: PostgreSQL refuses when it gets no answer.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::{Mutex, PoisonError},
};

use api::{
    Secret,
    database_token::{Refused, Verifier},
};
use serde::{Deserialize, Serialize};
use service::Clock;
use tokio::{net::UdpSocket, sync::OnceCell};
use tokio_postgres::Client;

use crate::{Error, radius};

/// Who is in it signs in by identity and in no other way. `:` keeps it apart from every role that is asked for.
pub(crate) const GROUP: &str = "sign-in:identity";

/// What a role's comment says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Belongs {
    /// The workload whose tokens open it.
    pub workload: String,
    /// The addresses from which it comes; empty: any, where connections do not show whence they come.
    #[serde(default)]
    pub from: Vec<IpAddr>,
}

/// The judge, and what it knows.
pub(crate) struct Identities {
    verifier: Verifier,
    secret: Secret,
    clock: Clock,
    known: Mutex<BTreeMap<String, Belongs>>,
    /// Bound when it is first needed.
    socket: OnceCell<UdpSocket>,
    /// Where it listens: the loopback that the server has too.
    address: IpAddr,
}

impl Identities {
    pub fn new(verifier: Verifier, clock: Clock, server: IpAddr) -> Self {
        let address = if server.is_loopback() { server } else { IpAddr::V4(Ipv4Addr::LOCALHOST) };
        Self { verifier, secret: Secret::random(), clock, known: Mutex::default(), socket: OnceCell::new(), address }
    }

    async fn socket(&self) -> Result<&UdpSocket, Error> {
        let bind = || async { UdpSocket::bind((self.address, 0)).await };
        self.socket.get_or_try_init(bind).await.map_err(Error::SignIn)
    }

    /// The lines of the access file for what is known, each role from where it comes.
    pub async fn lines(&self) -> Result<String, Error> {
        let at = self.socket().await?.local_addr().map_err(Error::SignIn)?;
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut text = String::new();
        for (role, belongs) in &known {
            let from: Vec<String> = match belongs.from.as_slice() {
                [] => vec!["all".into()],
                some => some.iter().map(|a| format!("{a}/{}", if a.is_ipv4() { 32 } else { 128 })).collect(),
            };
            for from in from {
                text.push_str(&format!(
                    "hostssl   all \"{role}\" {from} radius radiusservers=\"{}\" radiusports=\"{}\" radiussecrets=\"{}\"\n",
                    at.ip(),
                    at.port(),
                    self.secret.expose(),
                ));
            }
        }
        Ok(text)
    }

    /// Reads which roles there are, and whose.
    pub async fn read(&self, client: &Client) -> Result<(), Error> {
        let sql = "SELECT m.rolname::text, shobj_description(m.oid, 'pg_authid') FROM pg_auth_members a \
                   JOIN pg_roles g ON g.oid = a.roleid JOIN pg_roles m ON m.oid = a.member \
                   WHERE g.rolname = $1 AND m.rolcanlogin";
        let rows = client.query(sql, &[&GROUP]).await.map_err(Error::sql("look roles of identities up"))?;
        let known = rows.iter().filter_map(|row| {
            let comment: Option<String> = row.get(1);
            Some((row.get::<_, String>(0), serde_json::from_str::<Belongs>(&comment?).ok()?))
        });
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known.collect();
        Ok(())
    }

    /// Judges for as long as it is polled; only a socket that cannot be had ends it.
    pub async fn judge(&self) -> Result<(), Error> {
        let socket = self.socket().await?;
        let mut packet = vec![0; radius::LONGEST];
        loop {
            let Ok((length, from)) = socket.recv_from(&mut packet).await else {
                // An answer that nobody waited for comes back as an error of the next call.
                continue;
            };
            let secret = self.secret.expose().as_bytes();
            let Some(request) = radius::read(&packet[..length], secret) else { continue };
            let judged = self.look(&request.user, &request.password);
            match &judged {
                Ok(()) => tracing::debug!(role = request.user, "a token opens"),
                Err(why) => tracing::warn!(role = request.user, why, "refused a sign-in by identity"),
            }
            if let Err(error) = socket.send_to(&radius::answer(&request, judged.is_ok(), secret), from).await {
                tracing::warn!(%error, "could not answer the server on a sign-in");
            }
        }
    }

    fn look(&self, role: &str, token: &str) -> Result<(), String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let belongs = known.get(role).ok_or("no workload has this role")?;
        let refused = |why: Refused| format!("{why} (the role is {}'s)", belongs.workload);
        self.verifier.verify(token, &belongs.workload, self.clock.now_s()).map_err(refused)
    }
}

#[cfg(test)]
mod tests {
    use api::database_token::Signer;

    use super::*;

    #[test]
    fn a_role_is_opened_by_the_token_of_its_own_workload_only() {
        let signer = Signer::new(&Secret::new("root"));
        let verifier = Verifier::new(&signer.public_key(), "tenant").unwrap();
        let judge = Identities::new(verifier, Clock::default(), [127, 0, 0, 1].into());
        let belongs = Belongs { workload: "service.cloud".into(), from: Vec::new() };
        judge.known.lock().unwrap().insert("cloud".into(), belongs);
        let now = Clock::default().now_s();
        let token = |of: &str| signer.sign("tenant", of, now, now + 60);
        assert_eq!(judge.look("cloud", token("service.cloud").expose()), Ok(()));
        let other = judge.look("cloud", token("service.manage").expose()).unwrap_err();
        assert!(other.contains("another workload's"), "{other}");
        assert!(judge.look("manage", token("service.manage").expose()).is_err(), "a role that is not known");
    }
}
