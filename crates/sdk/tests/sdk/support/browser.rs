//! A browser without a screen: it keeps cookies by origin, and the anti-forgery token of its session.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use sdk::{Settings, Trust, https::Client};
use serde_json::Value;
use url::Url;

pub struct Browser {
    client: Client,
    pub base: String,
    /// By origin and name.
    pub cookies: BTreeMap<(String, String), String>,
    pub csrf: String,
}

/// What came back.
#[derive(Debug)]
pub struct Page {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
    pub bytes: Bytes,
    pub url: String,
}

/// A client of nobody's own authority: twenty seconds, 8 MiB.
pub fn client() -> Client {
    let trust = Trust::from_settings(&Settings::from_pairs::<&str, &str>([]), &[]).unwrap();
    Client::bounded(&trust, Duration::from_secs(20), 8 * 1024 * 1024).unwrap()
}

/// One request; of headers with one name, the last counts.
pub async fn send(
    client: &Client,
    method: Method,
    url: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Page {
    let mut all = HeaderMap::new();
    for (name, value) in headers {
        all.insert(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
    }
    let url = Url::parse(url).unwrap();
    let answer = client.send(method, &url, all, body.into()).await.unwrap();
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    Page { status: answer.status, headers: answer.headers, text, bytes: answer.body, url: url.into() }
}

impl Page {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {} {}", self.status, self.text))
    }

    /// The text under a name of the JSON; empty if there is none.
    pub fn said(&self, name: &str) -> String {
        self.json()[name].as_str().unwrap_or_default().to_owned()
    }

    pub fn location(&self) -> &str {
        self.headers.get(header::LOCATION).map_or("", |l| l.to_str().unwrap())
    }

    /// The value of a form's field.
    pub fn field(&self, name: &str) -> String {
        let at =
            self.text.find(&format!("name=\"{name}\"")).unwrap_or_else(|| panic!("no field {name} in {}", self.text));
        let tag = &self.text[at..at + self.text[at..].find('>').unwrap()];
        tag.split_once("value=\"").map_or(String::new(), |(_, v)| v.split('"').next().unwrap().to_owned())
    }
}

impl Browser {
    /// A browser that nobody is signed in with, at the application at `base`.
    pub fn new(base: &str) -> Browser {
        Browser { client: client(), base: base.to_owned(), cookies: BTreeMap::new(), csrf: String::new() }
    }

    /// A browser in which this person has signed in.
    pub async fn signed_in(base: &str, person: &str) -> Browser {
        let mut browser = Browser::new(base);
        let done = browser.sign_in(person).await;
        assert_eq!(done.status, StatusCode::SEE_OTHER, "{}", done.text);
        browser.csrf = browser.get("/api/v1/me").await.said("csrfToken");
        browser
    }

    pub async fn send(&mut self, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Page {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.base) };
        let origin = Url::parse(&url).unwrap().origin().ascii_serialization();
        let cookies = self.cookie_header(&origin);
        let mut all = if cookies.is_empty() { vec![] } else { vec![("cookie", cookies.as_str())] };
        all.extend(headers);
        let page = send(&self.client, method, &url, &all, body).await;
        for cookie in page.headers.get_all(header::SET_COOKIE) {
            let (name, rest) = cookie.to_str().unwrap().split_once('=').unwrap();
            let key = (origin.clone(), name.to_owned());
            if rest.contains("Max-Age=0") {
                self.cookies.remove(&key);
            } else {
                self.cookies.insert(key, rest.split(';').next().unwrap().to_owned());
            }
        }
        page
    }

    /// The cookies of an origin, as they are sent.
    pub fn cookie_header(&self, origin: &str) -> String {
        let own = self.cookies.iter().filter(|((of, _), _)| of == origin);
        own.map(|((_, name), value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }

    /// Puts a cookie of the application where it was never set.
    pub fn forge(&mut self, name: &str, value: &str) {
        self.cookies.insert((self.base.clone(), name.to_owned()), value.to_owned());
    }

    pub async fn get(&mut self, path: &str) -> Page {
        self.send(Method::GET, path, &[], Bytes::new()).await
    }

    /// Posts a form with the session's anti-forgery token.
    pub async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Page {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("_csrf", &self.csrf).extend_pairs(fields);
        let body = form.finish();
        self.send(Method::POST, path, &[("content-type", "application/x-www-form-urlencoded")], body).await
    }

    /// Calls the API with the session's cookie; null is no body.
    pub async fn api(&mut self, method: Method, path: &str, body: &Value) -> Page {
        let csrf = self.csrf.clone();
        let headers = [("content-type", "application/json"), ("x-csrf-token", csrf.as_str())];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(method, path, &headers, body).await
    }

    /// Goes the whole way through the issuer; gives the answer of the application's callback.
    pub async fn sign_in(&mut self, person: &str) -> Page {
        let start = self.get("/sign-in?return=%2F").await;
        let back = self.get(&format!("{}&person={person}", start.location())).await;
        self.get(back.location()).await
    }
}
