//! Objects in containers, over the Blob REST API, by the workload's own identity.
//!
//! A [`Container`] puts, gets, looks at, deletes and lists blobs. What is large goes and comes in pieces: [`Container::upload`]
//! takes a body as it comes, [`Container::download`] gives one as it is read; neither holds the whole in memory, and what is
//! read is one version of the blob from end to end.

mod list;
mod stream;

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

use crate::{
    Settings, SettingsError, Trust, TrustError,
    https::{Answer, Client, HttpsError},
    identity::{Identity, IdentityError},
};

pub use list::{Entry, List, Page};
pub use stream::Download;

/// What tokens for storage are asked for.
const AUDIENCE: &str = "https://storage.azure.com";
/// The version of the API that is spoken.
const VERSION: &str = "2021-12-02";
/// Bytes of one piece of a large blob, in either direction.
pub const PIECE: usize = 4 * 1024 * 1024;
/// One request takes no longer.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Pauses before what failed is sent again.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];
/// What stands in a path as it is.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// An account: where its containers are, and who asks.
#[derive(Clone)]
pub struct Account {
    url: Url,
    client: Client,
    identity: Identity,
}

/// One container of an account.
#[derive(Clone)]
pub struct Container {
    account: Account,
    name: String,
}

/// What is said about a blob as it is put.
#[derive(Clone, Debug, Default)]
pub struct Put {
    /// `application/octet-stream` if not given.
    pub content_type: Option<String>,
    pub cache_control: Option<String>,
    /// Refuse if there is one of this name ([`BlobError::is_there`]).
    pub only_new: bool,
    /// Refuse if the one that is there has another ETag.
    pub only_over: Option<String>,
    /// Names are identifiers.
    pub metadata: BTreeMap<String, String>,
}

/// What a put made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub etag: String,
    /// Where the account keeps versions.
    pub version: Option<String>,
}

/// What is known of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    pub length: u64,
    pub content_type: String,
    pub etag: String,
    /// As HTTP writes it.
    pub last_modified: String,
    pub version: Option<String>,
    /// `Hot`, `Cool`, `Cold` or `Archive`.
    pub tier: Option<String>,
    pub metadata: BTreeMap<String, String>,
}

#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("{0} is not the URL of an account of blobs")]
    Url(String),
    #[error("TLS cannot be set up for blobs")]
    Trust(#[from] TrustError),
    #[error("no token for blobs could be had")]
    Identity(#[from] IdentityError),
    #[error("the account of blobs cannot be reached")]
    Unreachable(#[from] HttpsError),
    /// `code` is the service's own word, such as `BlobNotFound`.
    #[error("the account of blobs refused {what}: {code} ({status})")]
    Refused { what: String, status: u16, code: String },
    #[error("the account of blobs answered {what} with what cannot be understood: {why}")]
    Answer { what: String, why: &'static str },
    #[error("what was to be uploaded broke off")]
    Source(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("{what} has more than {most} bytes")]
    TooLong { what: String, most: usize },
}

impl BlobError {
    /// There is no blob, or no container, of this name.
    pub fn is_not_found(&self) -> bool {
        matches!(self, BlobError::Refused { status: 404, .. })
    }

    /// A blob of this name is there already, and [`Put::only_new`] was asked for.
    pub fn is_there(&self) -> bool {
        matches!(self, BlobError::Refused { status: 409, code, .. } if code == "BlobAlreadyExists")
    }

    /// The blob is another than the one that was meant ([`Put::only_over`]).
    pub fn is_changed(&self) -> bool {
        matches!(self, BlobError::Refused { status: 412, .. })
    }

    /// Nobody may change or delete it yet.
    pub fn is_immutable(&self) -> bool {
        matches!(self, BlobError::Refused { status: 409, code, .. } if code.starts_with("BlobImmutable"))
    }

    /// Whether the fault may pass, so that trying again may help.
    pub fn is_outage(&self) -> bool {
        match self {
            BlobError::Unreachable(_) | BlobError::Refused { status: 408 | 429 | 500.., .. } => true,
            BlobError::Identity(error) => error.is_outage(),
            _ => false,
        }
    }
}

impl Account {
    /// The account at the URL in the variable `name`, asked in the name of this workload.
    ///
    /// # Errors
    /// A variable is missing or wrong, or TLS cannot be set up.
    pub fn from_settings(settings: &Settings, trust: &Trust, name: &'static str) -> Result<Account, BlobError> {
        let url = settings.required(name, "the URL of an account of blobs")?;
        Account::new(url, trust, Identity::from_settings(settings, trust)?)
    }

    /// The account at `url`, asked in the name of `identity`.
    ///
    /// # Errors
    /// It is no URL, or TLS cannot be set up.
    pub fn new(url: &str, trust: &Trust, identity: Identity) -> Result<Account, BlobError> {
        let parsed = Url::parse(url).ok().filter(|u| !u.cannot_be_a_base());
        let parsed = parsed.ok_or_else(|| BlobError::Url(url.to_owned()))?;
        // A list of 5,000 names of the longest kind is longer than a piece.
        Ok(Account { url: parsed, client: Client::bounded(trust, TIMEOUT, 4 * PIECE)?, identity })
    }

    pub fn container(&self, name: &str) -> Container {
        Container { account: self.clone(), name: name.to_owned() }
    }

    async fn send(
        &self,
        what: &str,
        method: Method,
        url: &Url,
        head: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, BlobError> {
        for pause in PAUSES.map(Some).into_iter().chain([None]) {
            let error = match self.send_once(what, method.clone(), url, head.clone(), body.clone()).await {
                Err(error) => error,
                done => return done,
            };
            if let BlobError::Refused { status: 401, .. } = error {
                // The account has other keys than those of before.
                self.identity.forget(AUDIENCE).await;
            } else if !error.is_outage() {
                return Err(error);
            }
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            }
        }
        unreachable!("the last round has no pause, and returns")
    }

    async fn send_once(
        &self,
        what: &str,
        method: Method,
        url: &Url,
        mut head: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, BlobError> {
        let token = self.identity.token(AUDIENCE).await?;
        let field = HeaderValue::from_str(&format!("Bearer {}", token.reveal()));
        let mut field =
            field.map_err(|_| BlobError::Answer { what: "a token".into(), why: "it is no text of a field" })?;
        field.set_sensitive(true);
        head.insert(header::AUTHORIZATION, field);
        head.insert(HeaderName::from_static("x-ms-version"), HeaderValue::from_static(VERSION));
        if method == Method::PUT && body.is_empty() {
            // The service asks for it (411), and an empty body comes without.
            head.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        let answer = self.client.send(method, url, head, body).await?;
        if answer.status.is_success() {
            return Ok(answer);
        }
        let code = text(&answer.headers, "x-ms-error-code").unwrap_or("no reason given").to_owned();
        Err(BlobError::Refused { what: what.to_owned(), status: answer.status.as_u16(), code })
    }
}

impl Container {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Puts a whole blob. For what is larger than a few megabytes there is [`Container::upload`].
    ///
    /// # Errors
    /// See [`BlobError`]; [`Put`] says what can be asked for.
    pub async fn put(&self, blob: &str, content: impl Into<Bytes>, put: &Put) -> Result<Written, BlobError> {
        let mut head = self.head_of(put)?;
        head.insert(HeaderName::from_static("x-ms-blob-type"), HeaderValue::from_static("BlockBlob"));
        let what = self.what("the put of", blob);
        let answer = self.account.send(&what, Method::PUT, &self.url(blob, &[]), head, content.into()).await?;
        Ok(written(&answer.headers))
    }

    /// A whole blob of at most `most` bytes.
    ///
    /// # Errors
    /// [`BlobError::TooLong`] if it has more; see [`BlobError`].
    pub async fn get(&self, blob: &str, most: usize) -> Result<(Properties, Bytes), BlobError> {
        let mut download = self.download(blob).await?;
        let properties = download.properties().clone();
        let what = self.what("the get of", blob);
        let Some(length) = usize::try_from(properties.length).ok().filter(|length| *length <= most) else {
            return Err(BlobError::TooLong { what, most });
        };
        let mut first = download.next().await?.unwrap_or_default();
        if first.len() < length {
            let mut whole = bytes::BytesMut::with_capacity(length);
            whole.extend_from_slice(&first);
            while let Some(piece) = download.next().await? {
                whole.extend_from_slice(&piece);
            }
            first = whole.freeze();
        }
        Ok((properties, first))
    }

    /// `length` bytes of a blob from `first` on; fewer where it ends before. At most [`PIECE`] at once.
    ///
    /// # Errors
    /// The status is 416 where the blob ends before `first`; see [`BlobError`].
    pub async fn range(&self, blob: &str, first: u64, length: usize) -> Result<(Properties, Bytes), BlobError> {
        self.piece(blob, first, length.min(PIECE), None).await
    }

    /// What is known of a blob.
    ///
    /// # Errors
    /// See [`BlobError`].
    pub async fn head(&self, blob: &str) -> Result<Properties, BlobError> {
        let what = self.what("the look at", blob);
        let answer =
            self.account.send(&what, Method::HEAD, &self.url(blob, &[]), HeaderMap::new(), Bytes::new()).await?;
        properties(&what, &answer.headers)
    }

    /// Deletes a blob.
    ///
    /// # Errors
    /// See [`BlobError`]; one that is not there is an error too ([`BlobError::is_not_found`]).
    pub async fn delete(&self, blob: &str) -> Result<(), BlobError> {
        let what = self.what("the deletion of", blob);
        self.account.send(&what, Method::DELETE, &self.url(blob, &[]), HeaderMap::new(), Bytes::new()).await?;
        Ok(())
    }

    fn what(&self, act: &str, blob: &str) -> String {
        format!("{act} {}/{blob}", self.name)
    }

    fn url(&self, blob: &str, query: &[(&str, &str)]) -> Url {
        let mut url = self.account.url.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        let slash = if blob.is_empty() { "" } else { "/" };
        let (container, blob) = (utf8_percent_encode(&self.name, PATH), utf8_percent_encode(blob, PATH));
        url.set_path(&format!("{base}/{container}{slash}{blob}"));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    fn head_of(&self, put: &Put) -> Result<HeaderMap, BlobError> {
        let mut head = HeaderMap::new();
        let mut set = |name: &str, value: &str| -> Result<(), BlobError> {
            let wrong = |_| BlobError::Answer { what: format!("`{name}`"), why: "it cannot stand in an HTTP field" };
            let name_of = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| BlobError::Answer { what: format!("`{name}`"), why: "it is no name of a field" })?;
            head.insert(name_of, HeaderValue::from_str(value).map_err(wrong)?);
            Ok(())
        };
        set("x-ms-blob-content-type", put.content_type.as_deref().unwrap_or("application/octet-stream"))?;
        if let Some(control) = &put.cache_control {
            set("x-ms-blob-cache-control", control)?;
        }
        if put.only_new {
            set("if-none-match", "*")?;
        }
        if let Some(etag) = &put.only_over {
            set("if-match", etag)?;
        }
        for (name, value) in &put.metadata {
            set(&format!("x-ms-meta-{name}"), value)?;
        }
        Ok(head)
    }

    async fn piece(
        &self,
        blob: &str,
        first: u64,
        length: usize,
        etag: Option<&str>,
    ) -> Result<(Properties, Bytes), BlobError> {
        let what = self.what("the get of", blob);
        let mut head = HeaderMap::new();
        let range = format!("bytes={first}-{}", first + (length.max(1) as u64) - 1);
        let field = |text: &str| HeaderValue::from_str(text).expect("a range and an ETag that came are text of fields");
        head.insert(HeaderName::from_static("x-ms-range"), field(&range));
        if let Some(etag) = etag {
            head.insert(header::IF_MATCH, field(etag));
        }
        let answer = self.account.send(&what, Method::GET, &self.url(blob, &[]), head, Bytes::new()).await?;
        let mut known = properties(&what, &answer.headers)?;
        if answer.status == StatusCode::PARTIAL_CONTENT {
            let whole = text(&answer.headers, "content-range").and_then(|t| t.rsplit_once('/')?.1.parse().ok());
            known.length = whole.ok_or(BlobError::Answer { what, why: "no length of the whole" })?;
        }
        Ok((known, answer.body))
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn written(headers: &HeaderMap) -> Written {
    Written {
        etag: text(headers, "etag").unwrap_or_default().to_owned(),
        version: text(headers, "x-ms-version-id").map(str::to_owned),
    }
}

fn properties(what: &str, headers: &HeaderMap) -> Result<Properties, BlobError> {
    let length = text(headers, "content-length").and_then(|t| t.parse().ok());
    let owned = |name: &str| text(headers, name).map(str::to_owned);
    let metadata = headers.iter().filter_map(|(name, value)| {
        let name = name.as_str().strip_prefix("x-ms-meta-")?;
        Some((name.to_owned(), value.to_str().ok()?.to_owned()))
    });
    Ok(Properties {
        length: length.ok_or_else(|| BlobError::Answer { what: what.to_owned(), why: "no length" })?,
        content_type: owned("content-type").unwrap_or_default(),
        etag: owned("etag").unwrap_or_default(),
        last_modified: owned("last-modified").unwrap_or_default(),
        version: owned("x-ms-version-id"),
        tier: owned("x-ms-access-tier"),
        metadata: metadata.collect(),
    })
}
