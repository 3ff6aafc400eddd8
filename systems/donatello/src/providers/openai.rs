//! Azure OpenAI images: one request, the image in the answer as base64.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use sdk::{Secret, Settings, Trust, https::Client};
use serde::Deserialize;
use serde_json::json;
use url::Url;

use super::{Ask, CallError, Drawn, ProviderError, STAND_IN, address, join, status};
use crate::image;

/// The version of the API that is spoken.
const VERSION: &str = "2024-02-01";
/// Above the 60 seconds that a call gets.
const TIMEOUT: Duration = Duration::from_secs(65);

pub struct OpenAi {
    url: Url,
    deployment: String,
    key: Secret,
    client: Client,
}

#[derive(Deserialize)]
struct Answer {
    data: Vec<Datum>,
}

#[derive(Deserialize)]
struct Datum {
    b64_json: Option<String>,
}

impl OpenAi {
    /// From `OPENAI_URL`, `OPENAI_KEY` and `OPENAI_DEPLOYMENT` (dall-e-3); None when address or key is not set.
    ///
    /// # Errors
    /// The address cannot be used.
    pub fn from_settings(settings: &Settings, trust: &Trust) -> Result<Option<OpenAi>, ProviderError> {
        let (Some(url), Some(key)) = (address(settings, "OPENAI_URL")?, settings.optional("OPENAI_KEY")?) else {
            return Ok(None);
        };
        let deployment = settings.optional("OPENAI_DEPLOYMENT")?.unwrap_or("dall-e-3").to_owned();
        // Base64 is a third longer than the image.
        let client = Client::bounded(trust, TIMEOUT, image::MOST * 3 / 2)?;
        Ok(Some(OpenAi { url, deployment, key: Secret::new(key), client }))
    }

    /// # Errors
    /// See [`CallError`].
    pub async fn draw(&self, ask: Ask<'_>) -> Result<Drawn, CallError> {
        let path = format!("/openai/deployments/{}/images/generations?api-version={VERSION}", self.deployment);
        let quality = if ask.wish.required_quality == "high" { "hd" } else { "standard" };
        let body = json!({
            "prompt": ask.prompt, "size": ask.wish.resolution, "n": 1, "quality": quality, "style": ask.wish.style,
            "response_format": "b64_json",
        });
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let mut key = HeaderValue::from_str(self.key.reveal())
            .map_err(|_| CallError::Ours("OPENAI_KEY holds a character that no header takes".into()))?;
        key.set_sensitive(true);
        headers.insert(HeaderName::from_static("api-key"), key);
        let answer =
            self.client.send(Method::POST, &join(&self.url, &path), headers, Bytes::from(body.to_string())).await?;
        if answer.status.as_u16() == 400
            && let Some(why) = policy(&answer.body)
        {
            return Err(CallError::Refused(why));
        }
        if !answer.status.is_success() {
            return Err(status(answer.status.as_u16(), &answer.headers));
        }
        let stand_in = answer.headers.contains_key(STAND_IN);
        let garbage = || CallError::again("its answer cannot be understood");
        let read: Answer = serde_json::from_slice(&answer.body).map_err(|_| garbage())?;
        let text = read.data.into_iter().next().and_then(|d| d.b64_json).ok_or_else(garbage)?;
        let bytes = STANDARD.decode(text).map_err(|_| garbage())?;
        Ok(Drawn { bytes, stand_in })
    }
}

/// The reason, when a 400 says that the prompt breaks the provider's rules.
fn policy(body: &[u8]) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    let code = body["error"]["code"].as_str()?;
    let about = ["content_policy_violation", "contentFilter", "content_filter"].contains(&code);
    about.then(|| code.to_owned())
}
