//! A ticket: the centre says that a person has just signed in, for one region, for one browser, for one minute, once.

use sdk::seal::random_text;
use serde::{Deserialize, Serialize};

use super::{Face, LinkError, Links, now};

/// From the centre's answer to the region's look at it: a redirect.
const SECONDS: u64 = 60;

/// What a ticket says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ticket {
    pub iss: String,
    /// The region's name.
    pub aud: String,
    pub exp: u64,
    pub iat: u64,
    /// Its own number: a region takes it once.
    pub jti: String,
    /// Whom it is about: an e-mail address in lower case.
    pub sub: String,
    /// The fingerprint of what the region gave the browser on its way: another browser cannot use the ticket.
    pub state: String,
}

impl Links {
    /// Says to `region` that the person with this address has signed in here.
    ///
    /// # Errors
    /// No key, or no random numbers.
    pub fn ticket(&self, region: &str, email: &str, state: &str) -> Result<String, LinkError> {
        let now = now();
        self.sign(&Ticket {
            iss: self.inner.name.clone(),
            aud: region.to_owned(),
            exp: now + SECONDS,
            iat: now,
            jti: random_text()?,
            sub: email.to_owned(),
            state: state.to_owned(),
        })
    }

    /// Checks a ticket of the centre: its signature, that it is for this region, its minute, its browser. That it is used once
    /// is the store's part.
    ///
    /// # Errors
    /// It is not acceptable.
    pub fn admit(&self, centre: &Face, ticket: &str, state: &str) -> Result<Ticket, LinkError> {
        let ticket: Ticket = self.verify(centre, &self.inner.name, ticket)?;
        if ticket.exp > ticket.iat.saturating_add(SECONDS) {
            return Err(LinkError::Refused("it holds for longer than a minute"));
        }
        if !sdk::Secret::new(state).matches(&ticket.state) {
            return Err(LinkError::Refused("it was made for another browser"));
        }
        Ok(ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::links;

    #[test]
    fn a_ticket_opens_one_region_in_one_browser_and_only_the_centres_does() {
        let centre = links("eu", "thirty-two characters of the eu stamp");
        let (uk, uae) =
            (links("uk", "thirty-two characters of the uk stamp"), links("uae", "thirty-two characters for the uae"));
        let face = centre.face("https://eu").unwrap();
        let ticket = centre.ticket("uk", "ann@example.com", "state").unwrap();
        assert_eq!(uk.admit(&face, &ticket, "state").unwrap().sub, "ann@example.com");
        assert!(uk.admit(&face, &ticket, "other").is_err(), "another browser");
        assert!(uae.admit(&face, &ticket, "state").is_err(), "another region");
        let mut forged = uae.face("https://eu").unwrap();
        forged.name = "eu".to_owned();
        let other = uae.ticket("uk", "ann@example.com", "state").unwrap();
        assert!(uk.admit(&face, &other, "state").is_err(), "signed by a region");
        assert!(uk.admit(&forged, &ticket, "state").is_err(), "another key");
        let (head, tail) = ticket.rsplit_once('.').unwrap();
        let changed = format!("{head}x.{tail}");
        assert!(uk.admit(&face, &changed, "state").is_err(), "changed");
    }

    #[test]
    fn a_ticket_that_holds_longer_or_has_ended_is_refused() {
        let centre = links("eu", "thirty-two characters of the eu stamp");
        let uk = links("uk", "thirty-two characters of the uk stamp");
        let face = centre.face("https://eu").unwrap();
        let now = super::now();
        for (iat, exp) in [(now - 120, now - 60), (now, now + 3600)] {
            let claims = super::Ticket {
                iss: "eu".into(),
                aud: "uk".into(),
                exp,
                iat,
                jti: "1".into(),
                sub: "ann@example.com".into(),
                state: "s".into(),
            };
            assert!(uk.admit(&face, &centre.sign(&claims).unwrap(), "s").is_err(), "{iat} {exp}");
        }
    }
}
