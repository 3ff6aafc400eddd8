//! `/authorize`: the start of the code flow (OpenID Connect Core 3.1.2), PKCE S256 required.

use std::sync::Arc;

use api::{Secret, identity::Client};
use axum::{Extension, extract::State, http::StatusCode, response::Response};

use crate::{
    config::Settings,
    discovery::SCOPES,
    error::Error,
    form::Params,
    grants::{self, NewCode},
    pages,
    state::App,
    tokens,
    visit::{Signed, Visit, see_other},
};

/// A request whose client and redirect URI are good: only to that URI is anything ever sent.
struct Request {
    redirect_uri: String,
    state: Option<String>,
}

/// The client and the exactly matching redirect URI of an authorisation request; a sentence if there are none.
pub fn target<'a>(settings: &'a Settings, params: &'a Params) -> Result<(&'a Client, &'a str), &'static str> {
    let client = params.get("client_id").and_then(|id| settings.clients.get(id));
    let client = client.ok_or("The application that sent you here is not known.")?;
    let asked =
        params.get("redirect_uri").ok_or("The application that sent you here did not say where to go back to.")?;
    let same = |uri: &String| uri == asked || (client.native && differs_by_port(uri, asked));
    if !client.redirect_uris.iter().any(same) {
        return Err("The application that sent you here named an address to go back to that is not registered.");
    }
    Ok((client, asked))
}

/// Whether two plain loopback addresses differ by their port at most: a program listens where it finds room (RFC 8252, section
/// 7.3).
fn differs_by_port(known: &str, asked: &str) -> bool {
    let without_port = |text: &str| {
        let mut url = url::Url::parse(text).ok().filter(|url| url.scheme() == "http" && url.as_str() == text)?;
        matches!(url.host(), Some(url::Host::Ipv4(ip)) if ip.is_loopback()).then_some(())?;
        url.set_port(None).ok()?;
        Some(url)
    };
    without_port(known).is_some_and(|known| without_port(asked).is_some_and(|asked| asked == known))
}

pub async fn begin(State(app): State<App>, Extension(visit): Extension<Arc<Visit>>) -> Result<Response, Error> {
    let settings = app.settings.load_full();
    let params = if visit.form.is_empty() { &visit.query } else { &visit.form };
    let (client, redirect_uri) = match target(&settings, params) {
        Ok(found) => found,
        // Never a redirect: the address is not to be trusted.
        Err(sentence) => return Ok(pages::refused(&app, StatusCode::BAD_REQUEST, sentence)),
    };
    let request = Request { redirect_uri: redirect_uri.to_owned(), state: params.get("state").map(str::to_owned) };
    let refuse =
        |error: &str, why: &str| Ok(request.answer(&settings, &[("error", error), ("error_description", why)]));

    if let Some((error, why)) = fault(params) {
        return refuse(error, why);
    }
    let prompts: Vec<&str> = params.text("prompt").split_whitespace().collect();
    let silent = prompts.contains(&"none");
    if silent && prompts.len() > 1 {
        return refuse("invalid_request", "prompt=none stands alone");
    }
    let max_age = match params.get("max_age").map(str::parse::<i64>) {
        None => None,
        Some(Ok(seconds)) if seconds >= 0 => Some(seconds),
        Some(_) => return refuse("invalid_request", "max_age is a number of seconds"),
    };
    let now = app.now();
    // `max_age=0` asks for a sign-in as `prompt=login` does; both are taken off once it has been sent there.
    let anew = prompts.iter().any(|p| ["login", "select_account"].contains(p)) || max_age == Some(0);
    let fresh = |signed: &&Arc<Signed>| max_age.is_none_or(|age| now - signed.session.started_s <= age);
    let Some(signed) = visit.signed.as_ref().filter(fresh).filter(|_| !anew) else {
        if silent {
            return refuse("login_required", "nobody is signed in");
        }
        let mut query = params.encode("prompt");
        if max_age == Some(0)
            && let Some(again) = Params::parse(query.as_bytes())
        {
            query = again.encode("max_age");
        }
        let inner: String = url::form_urlencoded::byte_serialize(query.as_bytes()).collect();
        return Ok(see_other(&format!("/sign-in?authorize={inner}")));
    };

    let code = Secret::random();
    let scope: Vec<&str> = params.text("scope").split_whitespace().filter(|s| SCOPES.contains(s)).collect();
    let (hash, scope) = (tokens::hash(code.expose()), scope.join(" "));
    let (client, person, session) = (client.id.clone(), signed.person.id.clone(), signed.session.id.clone());
    let (nonce, challenge) = (params.get("nonce").map(str::to_owned), params.text("code_challenge").to_owned());
    let (uri, auth_time) = (request.redirect_uri.clone(), signed.session.started_s);
    app.store
        .run(move |db| {
            let code = NewCode {
                hash: &hash,
                client: &client,
                person: &person,
                session: &session,
                scope: &scope,
                nonce: nonce.as_deref(),
                auth_time,
                redirect_uri: &uri,
                challenge: &challenge,
            };
            grants::add_code(db, &code, now)
        })
        .await?;
    Ok(request.answer(&settings, &[("code", code.expose())]))
}

/// What is wrong with a request of a known client: error code and description.
fn fault(params: &Params) -> Option<(&'static str, &'static str)> {
    if params.get("request").is_some() {
        return Some(("request_not_supported", "request objects are not supported"));
    }
    if params.get("request_uri").is_some() {
        return Some(("request_uri_not_supported", "request objects are not supported"));
    }
    if params.get("response_type") != Some("code") {
        return Some(("unsupported_response_type", "response_type is code"));
    }
    if params.get("response_mode").is_some_and(|mode| mode != "query") {
        return Some(("invalid_request", "response_mode is query"));
    }
    if !params.text("scope").split_whitespace().any(|s| s == "openid") {
        return Some(("invalid_scope", "the scope openid is needed"));
    }
    if params.get("code_challenge_method") != Some("S256") {
        return Some(("invalid_request", "PKCE is needed, with code_challenge_method=S256"));
    }
    // 32 bytes of SHA-256 are 43 characters of base64url.
    let challenge = params.text("code_challenge");
    if challenge.len() != 43 || !challenge.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) {
        return Some(("invalid_request", "code_challenge is not that of S256"));
    }
    if params.text("nonce").len() > 512 || params.text("state").len() > 4096 {
        return Some(("invalid_request", "nonce or state is too long"));
    }
    None
}

impl Request {
    /// Back to the client, with the issuer (RFC 9207) and its state.
    fn answer(&self, settings: &Settings, fields: &[(&str, &str)]) -> Response {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(fields);
        if let Some(state) = &self.state {
            query.append_pair("state", state);
        }
        query.append_pair("iss", &settings.issuer);
        let mark = if self.redirect_uri.contains('?') { '&' } else { '?' };
        see_other(&format!("{}{mark}{}", self.redirect_uri, query.finish()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_goes_back_to_its_own_machine_at_any_port_and_nowhere_else() {
        let known = "http://127.0.0.1/";
        for good in ["http://127.0.0.1/", "http://127.0.0.1:40123/"] {
            assert!(differs_by_port(known, good), "{good}");
        }
        for bad in [
            "https://127.0.0.1:40123/",
            "http://127.0.0.2:40123/",
            "http://127.0.0.1:40123/elsewhere",
            "http://127.0.0.1:40123/?a=b",
            "http://127.0.0.1:40123/#a",
            "http://me@127.0.0.1:40123/",
            "http://127.0.0.1:40123",
            "http://127.1:40123/",
            "http://localhost:40123/",
            "http://127.0.0.1.example:40123/",
            "http://127.0.0.1:99999/",
        ] {
            assert!(!differs_by_port(known, bad), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn judging_any_request_never_panics(query in "\\PC{0,200}", value in "\\PC{0,60}") {
            let settings = Settings::check(api::identity::IdentityConfig {
                issuer: "https://127.0.0.1".into(),
                tenant: "7f3c2a90-0000-4000-8000-000000000001".into(),
                admin_group: "administrators".into(),
                clients: vec![Client {
                    id: "web".into(),
                    redirect_uris: vec!["https://127.0.0.1:9/cb".into()],
                    ..Client::default()
                }],
                ..Default::default()
            })
            .unwrap();
            let known = format!(
                "client_id=web&redirect_uri={value}&response_type=code&scope=openid&code_challenge_method=S256&code_challenge={value}"
            );
            for text in [query, known] {
                let Some(params) = Params::parse(text.as_bytes()) else { continue };
                let _ = fault(&params);
                if let Ok((client, uri)) = target(&settings, &params) {
                    proptest::prop_assert!(client.redirect_uris.iter().any(|known| known == uri));
                    let request = Request { redirect_uri: uri.to_owned(), state: Some(value.clone()) };
                    let answer = request.answer(&settings, &[("error", &value)]);
                    let to = answer.headers()["location"].to_str().unwrap().to_owned();
                    proptest::prop_assert!(to.starts_with("https://127.0.0.1:9/cb?"));
                }
            }
        }
    }
}
