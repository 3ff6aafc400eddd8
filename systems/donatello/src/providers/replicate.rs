//! Replicate: a prediction is made, asked for until it ends, and its output fetched. The prediction's id outlives a worker.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use sdk::{
    Secret, Settings, Trust,
    https::{Answer, Client},
};
use serde::Deserialize;
use serde_json::json;
use url::Url;

use super::{Ask, CallError, Drawn, ProviderError, STAND_IN, address, join, status};
use crate::image;

const TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks at a prediction.
const LOOK: Duration = Duration::from_millis(500);
/// Where Replicate itself keeps outputs.
const DELIVERY: &str = "replicate.delivery";

pub struct Replicate {
    url: Url,
    model: String,
    key: Secret,
    client: Client,
}

#[derive(Deserialize)]
struct Prediction {
    id: String,
    status: String,
    #[serde(default)]
    output: serde_json::Value,
    #[serde(default)]
    error: serde_json::Value,
}

impl Replicate {
    /// From `REPLICATE_URL`, `REPLICATE_KEY` and `REPLICATE_MODEL` (stability-ai/sdxl); None when address or key is not
    /// set.
    ///
    /// # Errors
    /// The address cannot be used.
    pub fn from_settings(settings: &Settings, trust: &Trust) -> Result<Option<Replicate>, ProviderError> {
        let (Some(url), Some(key)) = (address(settings, "REPLICATE_URL")?, settings.optional("REPLICATE_KEY")?) else {
            return Ok(None);
        };
        let model = settings.optional("REPLICATE_MODEL")?.unwrap_or("stability-ai/sdxl").to_owned();
        Ok(Some(Replicate {
            url,
            model,
            key: Secret::new(key),
            client: Client::bounded(trust, TIMEOUT, image::MOST + 4096)?,
        }))
    }

    /// Makes a prediction; gives its id.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn begin(&self, ask: Ask<'_>) -> Result<String, CallError> {
        let (width, height) = ask.wish.size();
        let body = json!({ "input": { "prompt": ask.prompt, "width": width, "height": height, "num_outputs": 1, "output_format": "png" } });
        let path = format!("/v1/models/{}/predictions", self.model);
        let answer = self.send(Method::POST, &join(&self.url, &path), Some(body)).await?;
        let made: Prediction = serde_json::from_slice(&answer.body).map_err(|_| garbage())?;
        if !fits(&made.id) {
            return Err(garbage());
        }
        Ok(made.id)
    }

    /// Waits for a prediction and fetches its output. Waits without end; the caller sets the limit.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn finish(&self, id: &str) -> Result<Drawn, CallError> {
        if !fits(id) {
            return Err(garbage());
        }
        let url = join(&self.url, &format!("/v1/predictions/{id}"));
        let done = loop {
            let answer = self.send(Method::GET, &url, None).await?;
            let prediction: Prediction = serde_json::from_slice(&answer.body).map_err(|_| garbage())?;
            match prediction.status.as_str() {
                "starting" | "processing" => tokio::time::sleep(LOOK).await,
                "succeeded" => break prediction,
                _ => {
                    let why: String =
                        prediction.error.as_str().unwrap_or("no reason given").chars().take(200).collect();
                    // Its own word for a prompt it will not draw.
                    if why.contains("NSFW") {
                        return Err(CallError::Refused(why));
                    }
                    return Err(CallError::again(format!("the prediction failed: {why}")));
                }
            }
        };
        let output =
            done.output.as_str().or_else(|| done.output.get(0).and_then(|o| o.as_str())).ok_or_else(garbage)?;
        let output = Url::parse(output).map_err(|_| garbage())?;
        let own = output.origin() == self.url.origin();
        let delivery = output.scheme() == "https"
            && output.host_str().is_some_and(|h| h == DELIVERY || h.ends_with(&format!(".{DELIVERY}")));
        // The answer names an address that this worker fetches from within its network: only Replicate's own will do.
        if !own && !delivery {
            return Err(CallError::again("its output lies at an address that is not its own"));
        }
        let mut headers = HeaderMap::new();
        if own {
            headers = self.headers()?;
        }
        let answer = self.client.send(Method::GET, &output, headers, Bytes::new()).await?;
        if !answer.status.is_success() {
            return Err(status(answer.status.as_u16(), &answer.headers));
        }
        Ok(Drawn { stand_in: answer.headers.contains_key(STAND_IN), bytes: answer.body.to_vec() })
    }

    fn headers(&self) -> Result<HeaderMap, CallError> {
        let mut headers = HeaderMap::new();
        let key = format!("Bearer {}", self.key.reveal());
        let mut key = HeaderValue::from_str(&key)
            .map_err(|_| CallError::Ours("REPLICATE_KEY holds a character that no header takes".into()))?;
        key.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, key);
        Ok(headers)
    }

    async fn send(&self, method: Method, url: &Url, body: Option<serde_json::Value>) -> Result<Answer, CallError> {
        let mut headers = self.headers()?;
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let body = body.map(|b| Bytes::from(b.to_string())).unwrap_or_default();
        let answer = self.client.send(method, url, headers, body).await?;
        if answer.status.is_success() { Ok(answer) } else { Err(status(answer.status.as_u16(), &answer.headers)) }
    }
}

fn fits(id: &str) -> bool {
    (1..=100).contains(&id.len()) && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

fn garbage() -> CallError {
    CallError::again("its answer cannot be understood")
}
