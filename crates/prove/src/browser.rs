//! A person at a browser, without the browser: cookies, redirects, the forms of sign-in.

use std::{collections::BTreeMap, time::Duration};

use api::{Secret, client::Client, identity::AtTerminal};
use http::header;

use crate::{Miss, Site, miss, must};

/// Somebody with an account.
pub struct Browser {
    edge: String,
    /// The part of the application that is signed in to, such as `/manage`; empty for all of it.
    pub(crate) part: String,
    /// Where signing in leads to, if not to the part's first page; such an application has no `/api/v1/me`.
    pub(crate) home: Option<String>,
    /// The path at which a sign-in begins.
    pub(crate) way_in: String,
    /// Every request so far.
    pub(crate) visits: Vec<Visit>,
    /// Clients by origin: the edge, and where people sign in.
    clients: BTreeMap<String, Client>,
    /// Cookies by origin and name.
    cookies: BTreeMap<(String, String), String>,
    pub email: String,
    /// The person's id in the directory.
    pub id: String,
    password: Secret,
    /// The token that guards against forged requests, once signed in.
    pub csrf: String,
}

/// One request, and where its answer led.
#[derive(Debug)]
pub struct Visit {
    pub url: String,
    pub location: String,
    /// A cookie went along that the application had given.
    pub cookie: bool,
}

/// An answer.
pub struct Page {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub text: String,
    /// SHA-256 of its bytes, hex.
    pub digest: String,
}

impl Page {
    pub fn json(&self) -> Result<serde_json::Value, Miss> {
        serde_json::from_str(&self.text)
            .map_err(|e| Miss::Failed(format!("no JSON ({e}): {} {}", self.status, self.text)))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    fn field(&self, name: &str) -> Result<String, Miss> {
        field(&self.text, name)
    }
}

/// The value of a form's hidden field.
///
/// # Errors
/// The page has no such field.
pub(crate) fn field(page: &str, name: &str) -> Result<String, Miss> {
    let Some(at) = page.find(&format!("name=\"{name}\"")) else {
        let begin: String = page.chars().take(200).collect();
        miss!("a page has no field {name}: {begin}")
    };
    let tag = page[at..].split('>').next().unwrap_or_default();
    let value = tag.split_once("value=\"").and_then(|(_, v)| v.split('"').next()).unwrap_or_default();
    Ok(value.replace("&#38;", "&").replace("&amp;", "&").replace("&#34;", "\"").replace("&quot;", "\""))
}

fn origin(url: &url::Url) -> String {
    url.origin().ascii_serialization()
}

fn parse(url: &str) -> Result<url::Url, Miss> {
    url.parse().map_err(|e| Miss::Failed(format!("`{url}` is no URL: {e}")))
}

impl Browser {
    pub(crate) fn new(site: &Site, email: String, password: Secret) -> Result<Self, Miss> {
        let mut clients = BTreeMap::new();
        for url in site.status.urls.iter().filter(|(name, _)| *name == "edge" || name.starts_with("identity")) {
            let client = site.client(url.1)?.timeout(Duration::from_secs(30));
            clients.insert(origin(&parse(url.1)?), client);
        }
        let edge = match &site.door {
            None => site.url("edge")?,
            Some(door) => {
                let at_door = Site { ca_pem: door.ca_pem.clone(), ..site.clone() };
                let client = at_door.client(&door.url)?.timeout(Duration::from_secs(30));
                clients.insert(origin(&parse(&door.url)?), client);
                door.url.clone()
            }
        };
        Ok(Self {
            edge,
            part: String::new(),
            home: None,
            way_in: "/sign-in".to_owned(),
            visits: Vec::new(),
            clients,
            cookies: BTreeMap::new(),
            email,
            id: String::new(),
            password,
            csrf: String::new(),
        })
    }

    /// A browser in which nobody has signed in, of somebody without an account.
    pub fn stranger(site: &Site) -> Result<Self, Miss> {
        Self::new(site, String::new(), Secret::new(""))
    }

    /// Goes to another stamp as well, where redirects lead there.
    pub(crate) fn knows(&mut self, other: &Site) -> Result<(), Miss> {
        self.clients.extend(Self::new(other, String::new(), Secret::new(""))?.clients);
        Ok(())
    }

    /// From now on paths are those of another edge.
    pub(crate) fn moves(&mut self, edge: &str) {
        self.edge = edge.trim_end_matches('/').to_owned();
    }

    /// One request; redirects are not followed.
    pub async fn send(&mut self, method: &str, url: &str, kind: &str, body: Option<String>) -> Result<Page, Miss> {
        self.send_with(method, url, kind, body, &BTreeMap::new()).await
    }

    /// As [`Self::send`], with headers of the caller's.
    pub async fn send_with(
        &mut self,
        method: &str,
        url: &str,
        kind: &str,
        body: Option<String>,
        headers: &BTreeMap<String, String>,
    ) -> Result<Page, Miss> {
        let url = if url.starts_with('/') { format!("{}{url}", self.edge) } else { url.to_owned() };
        let url = parse(&url)?;
        let origin = origin(&url);
        let Some(client) = self.clients.get(&origin) else { miss!("a redirect leads away, to {origin}") };
        let cookies: Vec<String> =
            self.cookies.iter().filter(|((o, _), _)| *o == origin).map(|((_, n), v)| format!("{n}={v}")).collect();
        let mut client = client.clone();
        if !cookies.is_empty() {
            client = client.header(header::COOKIE, &cookies.join("; "));
        }
        if body.is_some() {
            client = client
                .header(header::ORIGIN, &origin)
                .header(http::HeaderName::from_static("sec-fetch-site"), "same-origin");
        }
        for (name, value) in headers {
            let name = name.parse().map_err(|_| Miss::Failed(format!("`{name}` is no header's name")))?;
            client = client.header(name, value);
        }
        if !self.csrf.is_empty() {
            client = client.header(http::HeaderName::from_static("x-csrf-token"), &self.csrf);
        }
        let path = url.query().map_or(url.path().to_owned(), |q| format!("{}?{q}", url.path()));
        let answer = client.send(method, &path, body.map(|b| (kind, b.into()))).await?;
        for cookie in answer.headers.get_all(header::SET_COOKIE) {
            let text = cookie.to_str().unwrap_or_default();
            let Some((name, rest)) = text.split_once('=') else { continue };
            let value = rest.split(';').next().unwrap_or_default();
            let key = (origin.clone(), name.to_owned());
            if rest.to_ascii_lowercase().contains("max-age=0") {
                self.cookies.remove(&key);
            } else {
                self.cookies.insert(key, value.to_owned());
            }
        }
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let digest = crate::inside::sha256(&answer.body);
        let page = Page { status: answer.status.as_u16(), headers: answer.headers, text, digest };
        let location = url.join(page.header("location")).map(String::from).unwrap_or_default();
        self.visits.push(Visit { url: url.to_string(), location, cookie: !cookies.is_empty() });
        Ok(page)
    }

    pub async fn get(&mut self, url: &str) -> Result<Page, Miss> {
        self.send("GET", url, "", None).await
    }

    /// A call of the application's API with the session's cookie.
    pub async fn api(&mut self, method: &str, path: &str, body: &serde_json::Value) -> Result<Page, Miss> {
        self.send(method, path, "application/json", (!body.is_null()).then(|| body.to_string())).await
    }

    /// Goes where redirects lead; gives the page and its URL.
    async fn follow(&mut self, url: &str, form: Option<String>) -> Result<(Page, url::Url), Miss> {
        let mut at = parse(url)?;
        let mut body = form;
        for _ in 0..12 {
            let method = if body.is_some() { "POST" } else { "GET" };
            let page = self.send(method, at.as_str(), "application/x-www-form-urlencoded", body.take()).await?;
            let location = page.header("location").to_owned();
            if location.is_empty() {
                return Ok((page, at));
            }
            at = at.join(&location).map_err(|e| Miss::Failed(format!("`{location}`: {e}")))?;
        }
        miss!("twelve redirects from {url} and no end")
    }

    /// Sets the first password by a one-time link.
    pub(crate) async fn set_password(&mut self, link: &str) -> Result<(), Miss> {
        let (page, at) = self.follow(link, None).await?;
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("form", &page.field("form")?)
            .append_pair("token", &page.field("token")?)
            .append_pair("password", self.password.expose())
            .append_pair("again", self.password.expose())
            .finish();
        let action = at.join("/first").map_err(|e| Miss::Failed(e.to_string()))?;
        let (page, _) = self.follow(action.as_str(), Some(form)).await?;
        must!(page.status == 200, "setting the first password is answered {}", page.status);
        // A person comes to the application later, from elsewhere.
        self.cookies.clear();
        Ok(())
    }

    /// Signs in through the application's own way to the directory.
    pub async fn sign_in(&mut self) -> Result<(), Miss> {
        let password = self.password.expose().to_owned();
        let (page, at) = self.try_sign_in(&password).await?;
        must!(
            page.status == 200 && origin(&at) == origin(&parse(&self.edge)?),
            "after signing in, {} answers {}",
            at.path(),
            page.status
        );
        if !self.part.is_empty() || self.home.is_some() {
            // A part with pages alone: its forms carry the token.
            return Ok(());
        }
        let me = self.get("/api/v1/me").await?;
        must!(me.status == 200, "somebody who signed in is answered {}", me.status);
        self.csrf = me.json()?["csrfToken"].as_str().unwrap_or_default().to_owned();
        Ok(())
    }

    /// Signs in from elsewhere, wherever that leads: the application may not let them in.
    pub async fn sign_in_anew(&mut self) -> Result<(), Miss> {
        self.cookies.clear();
        self.csrf.clear();
        let password = self.password.expose().to_owned();
        self.try_sign_in(&password).await.map(drop)
    }

    /// Goes to the application and gives the right password; where that led, which may be another stamp.
    pub(crate) async fn try_sign_in_own(&mut self) -> Result<(Page, url::Url), Miss> {
        let password = self.password.expose().to_owned();
        self.try_sign_in(&password).await
    }

    /// Goes to the application and gives this password where it is asked for; where that led.
    pub async fn try_sign_in(&mut self, password: &str) -> Result<(Page, url::Url), Miss> {
        let home = self.home.clone().unwrap_or_else(|| format!("{}/", self.part));
        let start = format!("{}{}{}?return={}", self.edge, self.part, self.way_in, home.replace('/', "%2F"));
        let (page, at) = self.follow(&start, None).await?;
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("form", &page.field("form")?)
            .append_pair("authorize", &page.field("authorize")?)
            .append_pair("email", &self.email)
            .append_pair("password", password)
            .finish();
        let action = at.join(&action(&page.text)).map_err(|e| Miss::Failed(e.to_string()))?;
        self.follow(action.as_str(), Some(form)).await
    }
}

impl Browser {
    /// A token of this person for `resource`, as somebody at a terminal gets one: by signing in at the directory.
    pub async fn token(&mut self, site: &Site, resource: &str) -> Result<Secret, Miss> {
        let issuer = site.url(&site.first("identity")?)?;
        // Nobody listens there: the redirect is read and not followed.
        let asking = AtTerminal::new(9);
        let (page, at) = self.follow(&asking.url(&issuer), None).await?;
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("form", &page.field("form")?)
            .append_pair("authorize", &page.field("authorize")?)
            .append_pair("email", &self.email)
            .append_pair("password", self.password.expose())
            .finish();
        let action = at.join(&action(&page.text)).map_err(|e| Miss::Failed(e.to_string()))?;
        let kind = "application/x-www-form-urlencoded";
        let page = self.send("POST", action.as_str(), kind, Some(form)).await?;
        let back = at.join(page.header("location")).map_err(|e| Miss::Failed(e.to_string()))?;
        let page = self.get(back.as_str()).await?;
        let back = parse(page.header("location"))?;
        let field = |name: &str| back.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
        must!(field("state").as_deref() == Some(&asking.state), "the directory sends the person to {back}");
        let code = field("code").ok_or_else(|| Miss::Failed(format!("no code: {:?}", field("error"))))?;
        Ok(asking.redeem(&site.client(&issuer)?, &code, resource).await?)
    }
}

/// Where a page's form with a password goes; the page itself if it does not say.
fn action(page: &str) -> String {
    let form = page.split("<form").find(|f| f.contains("type=\"password\"")).unwrap_or_default();
    let action = form.split_once("action=\"").and_then(|(_, a)| a.split('"').next()).unwrap_or_default();
    action.replace("&amp;", "&").replace("&#38;", "&")
}
