//! Who draws: outside providers over their own wire formats, and the built-in renderer that needs none.

mod openai;
mod renderer;
mod replicate;

use std::time::Duration;

use sdk::{Settings, SettingsError, Trust, TrustError, https::HttpsError};

pub use openai::OpenAi;
pub use renderer::Renderer;
pub use replicate::Replicate;

use crate::domain::Wish;

/// The header by which a stand-in says that it is one.
pub const STAND_IN: &str = "x-stand-in";

#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("{0} is not a URL")]
    Url(&'static str),
    #[error("the providers' certificate authority is unusable")]
    Trust(#[from] TrustError),
}

/// An image as a provider sent it: judged by nobody yet.
#[derive(Clone, Debug)]
pub struct Drawn {
    pub bytes: Vec<u8>,
    /// The provider says that it is a stand-in.
    pub stand_in: bool,
}

/// Why a call gave no image.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It may work later; the provider may say when.
    #[error("{why}")]
    Again { why: String, after: Option<Duration> },
    /// The provider will not draw this prompt, and no other attempt changes that.
    #[error("the provider refused the prompt: {0}")]
    Refused(String),
    /// Our side is wrong: key, address, request. Another attempt does not help, another provider may.
    #[error("{0}")]
    Ours(String),
}

impl CallError {
    fn again(why: impl Into<String>) -> CallError {
        CallError::Again { why: why.into(), after: None }
    }
}

impl From<HttpsError> for CallError {
    fn from(error: HttpsError) -> CallError {
        CallError::again(error.to_string())
    }
}

/// What a status that is no success means, the same for all of them.
fn status(status: u16, headers: &http::HeaderMap) -> CallError {
    let after =
        headers.get(http::header::RETRY_AFTER).and_then(|h| h.to_str().ok()).and_then(|t| t.trim().parse().ok());
    match status {
        429 => CallError::Again {
            why: "it takes no more requests now (429)".into(),
            after: after.map(Duration::from_secs),
        },
        408 | 500.. => CallError::Again { why: format!("it answered {status}"), after: after.map(Duration::from_secs) },
        401 | 403 => CallError::Ours(format!("it does not accept the key ({status})")),
        other => CallError::Ours(format!("it does not understand the request ({other})")),
    }
}

/// What is asked of a provider.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    pub prompt: &'a str,
    pub wish: &'a Wish,
}

/// All that this worker can call.
pub struct Providers {
    pub renderer: Renderer,
    pub openai: Option<OpenAi>,
    pub replicate: Option<Replicate>,
}

/// Whether a model can be called from here, and why not.
pub struct Can {
    pub id: &'static str,
    pub yes: bool,
    pub note: String,
}

impl Providers {
    /// Those whose address and key are set. The longest any call may take is the caller's business.
    ///
    /// # Errors
    /// A variable is set and cannot be used.
    pub fn from_settings(settings: &Settings) -> Result<Providers, ProviderError> {
        let trust = Trust::from_settings(settings, &[])?;
        Ok(Providers {
            renderer: Renderer,
            openai: OpenAi::from_settings(settings, &trust)?,
            replicate: Replicate::from_settings(settings, &trust)?,
        })
    }

    /// What can be called, for the record that the router reads.
    pub fn can(&self) -> Vec<Can> {
        let missing = |there: bool, url: &str, key: &str| {
            if there { String::new() } else { format!("not configured: set {url} and {key} of the worker") }
        };
        let (openai, replicate) = (self.openai.is_some(), self.replicate.is_some());
        vec![
            Can { id: "renderer", yes: true, note: String::new() },
            Can { id: "azure-openai", yes: openai, note: missing(openai, "OPENAI_URL", "OPENAI_KEY") },
            Can { id: "replicate", yes: replicate, note: missing(replicate, "REPLICATE_URL", "REPLICATE_KEY") },
        ]
    }
}

/// An address from a variable.
fn address(settings: &Settings, name: &'static str) -> Result<Option<url::Url>, ProviderError> {
    match settings.optional(name)? {
        None => Ok(None),
        Some(text) => match url::Url::parse(text) {
            Ok(url) if !url.cannot_be_a_base() => Ok(Some(url)),
            _ => Err(ProviderError::Url(name)),
        },
    }
}

/// `path` under the address, whatever it ends with.
fn join(base: &url::Url, path: &str) -> url::Url {
    let mut url = base.clone();
    let (path, query) = path.split_once('?').map_or((path, None), |(p, q)| (p, Some(q)));
    url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
    url.set_query(query);
    url
}
